"""Who may use the service: bearer tokens with a role, of which the database holds only hashes."""

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Literal, get_args

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.store.database import Database
from atgen_ray.store.tables import tokens

Role = Literal["admin", "annotator"]
ROLES: tuple[Role, ...] = get_args(Role)
PREFIX = "atgen"


@dataclass(frozen=True)
class Caller:
    """Whoever showed a valid token: the token's public id, its role, and who it was made for.

    Tokens with one label are one person's. One without a label is a person of its own, named by its
    id.
    """

    id: str
    role: Role
    name: str


class Tokens:
    """The tokens in a database. Safe to use from threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, role: str, label: str = "") -> str:
        """A new token `atgen_<id>_<secret>`: shown this once, for only its hash is kept.

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
            }
            connection.execute(
                sa.insert(tokens).values(entry | {"created": self._database.clock(connection)})
            )
        return f"{PREFIX}_{id_}_{secret}"

    def identify(self, token: str) -> Caller | None:
        """Whose token this is; None for one that is unknown, revoked or malformed."""
        prefix, _, rest = token.partition("_")
        id_, _, secret = rest.partition("_")
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.id == id_)).one_or_none()
        # One comparison, whatever was sent: the time it takes tells nothing about how much of a
        # token was right.
        same = hmac.compare_digest(_hash(secret), row.digest if row else _hash(""))
        return (
            Caller(row.id, row.role, row.label or row.id)
            if row and same and prefix == PREFIX and not row.revoked
            else None
        )

    def exists(self, role: Role) -> bool:
        """Whether anybody could come in with `role`."""
        wanted = (tokens.c.role == role) & tokens.c.revoked.is_(False)
        with self._database.reading() as connection:
            return (
                connection.execute(sa.select(tokens.c.id).where(wanted).limit(1)).first()
                is not None
            )

    def list(self) -> list[dict[str, Any]]:
        """One row a token, the oldest first: id, role, label, created (UTC, ISO 8601), revoked."""
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(tokens).order_by(tokens.c.created, tokens.c.id)
            ).all()
        return [
            {"id": row.id, "role": row.role, "label": row.label, "revoked": row.revoked}
            | {"created": datetime.fromtimestamp(row.created, UTC).isoformat(timespec="seconds")}
            for row in rows
        ]

    def revoke(self, id_: str) -> None:
        """Make a token worthless from now on.

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
    """Refuses to listen where others can reach us before there is a token to tell them apart.

    Raises:
        UserError: `host` is not of this machine alone, and there is no admin token.
    """
    if not is_loopback(host) and not known.exists("admin"):
        raise UserError(
            f"--host is '{host}', which other machines can reach, but there is no token yet: "
            "`atgen-ray token create --role admin` makes one; or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; a name other than localhost counts as public."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
