"""Bearer tokens with a role. The database holds only their hashes."""

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Literal, get_args

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.hashing import digest
from atgen_ray.store.database import Database
from atgen_ray.store.tables import tokens

Role = Literal["admin", "annotator"]
ROLES: tuple[Role, ...] = get_args(Role)
PREFIX = "atgen"


@dataclass(frozen=True)
class Caller:
    """Caller with a valid token: the token's public id, its role, and the person it was made for.

    Tokens with the same label belong to one person. A token without a label is a person of its own,
    named by its id.
    """

    id: str
    role: Role
    name: str
    groups: tuple[str, ...] = ()  # that the person belongs to


class Tokens:
    """The tokens in a database. Safe to use from threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, role: str, label: str = "") -> str:
        """Create a token and return it as `atgen_<id>_<secret>`. It cannot be shown again, since
        only its hash is stored.

        Raises:
            UserError: the role is unknown.
        """
        if role not in ROLES:
            raise UserError(
                f"--role is {role[:80]!r}, expected admin or annotator{nearest(role, ROLES)}"
            )
        id_ = secrets.token_hex(4)
        secret = secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            entry = {
                "id": id_,
                "role": role,
                "label": label,
                "digest": _hash(secret),
                "revoked": False,
                "created": self._database.clock(connection),
            }
            connection.execute(sa.insert(tokens).values(entry))
        return f"{PREFIX}_{id_}_{secret}"

    def identify(self, token: str) -> Caller | None:
        """Return the caller with this token; None for an unknown, revoked or malformed token."""
        prefix, _, rest = token.partition("_")
        id_, _, secret = rest.partition("_")
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.id == id_)).one_or_none()
        # Always one comparison in constant time, so that timing does not reveal which part of a
        # token was right.
        same = hmac.compare_digest(_hash(secret), row.digest if row else _hash(""))
        return (
            Caller(row.id, row.role, row.label or row.id)
            if row and same and prefix == PREFIX and not row.revoked
            else None
        )

    def exists(self, role: Role) -> bool:
        """Return whether a valid token with `role` exists."""
        wanted = (tokens.c.role == role) & tokens.c.revoked.is_(False)
        with self._database.reading() as connection:
            return (
                connection.execute(sa.select(tokens.c.id).where(wanted).limit(1)).first()
                is not None
            )

    def list(self) -> list[dict[str, Any]]:
        """Return one row a token, the oldest first: id, role, label, revoked, created (UTC, ISO
        8601).
        """
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(tokens).order_by(tokens.c.created, tokens.c.id)
            ).all()
        return [
            {
                "id": row.id,
                "role": row.role,
                "label": row.label,
                "revoked": row.revoked,
                "created": datetime.fromtimestamp(row.created, UTC).isoformat(timespec="seconds"),
            }
            for row in rows
        ]

    def revoke(self, id_: str) -> None:
        """Make a token invalid from now on.

        Raises:
            UserError: no token has that id.
        """
        with self._database.writing() as connection:
            done = connection.execute(
                sa.update(tokens).where(tokens.c.id == id_).values(revoked=True)
            )
        if not done.rowcount:
            raise UserError(
                f"token {id_[:80]!r} is unknown{nearest(id_, [row['id'] for row in self.list()])}"
            )


def check_address(host: str, known: Tokens) -> None:
    """Check that the service may listen on `host`: other machines may reach it only if there is an
    admin token.

    Raises:
        UserError: other machines can reach `host`, and there is no admin token.
    """
    if not is_loopback(host) and not known.exists("admin"):
        raise UserError(
            f"--host is '{host}', which other machines can reach, but there is no token yet: "
            "`atgen-ray token create --role admin` makes one; or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`; a name other than localhost counts as
    public.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hash(secret: str) -> str:
    return digest(secret.encode("utf-8", "surrogatepass"), size=32, algorithm="sha256")
