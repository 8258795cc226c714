"""Bearer tokens with a role. The database holds only their hashes."""

import hmac
import secrets
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Literal, get_args

import sqlalchemy as sa

from atgen_ray.core.errors import StorageUnavailableError, UserError, nearest
from atgen_ray.core.hashing import digest
from atgen_ray.store.database import Database
from atgen_ray.store.tables import tokens

Role = Literal["admin", "annotator"]
ROLES: tuple[Role, ...] = get_args(Role)
PREFIX = "atgen"
LONGEST_NAME = 60  # characters of a person's or a group's name
USED_SECONDS = 300.0  # how exactly the last use of a token is known


@dataclass(frozen=True)
class Caller:
    """Caller with a valid token: the token's public id, its role, and the person it was made for.

    Tokens with the same label belong to one person. A token without a label is a person of its own,
    named by its id. `runs` are those that the caller may see (None: all), `groups` those that the
    person belongs to.
    """

    id: str
    role: Role
    name: str
    runs: tuple[str, ...] | None = None
    groups: tuple[str, ...] = ()

    def may_see(self, run: str) -> bool:
        """Return whether the run was shared with the caller, whether or not it exists."""
        return self.runs is None or run in self.runs


class Tokens:
    """The tokens in a database. Safe to use from threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        role: str,
        label: str = "",
        expires: float | None = None,
        runs: Sequence[str] | None = None,
        groups: Sequence[str] = (),
    ) -> str:
        """Create a token and return it as `atgen_<id>_<secret>`. It cannot be shown again, since
        only its hash is stored.

        Args:
            expires: seconds from now until it ends; None: it never does.
            runs: names of the runs that it may see; None: all.

        Raises:
            UserError: the role is unknown, an admin is restricted to runs, or the name of a group
                is none.
        """
        check_grant(role, runs, groups)
        with self._database.writing() as connection:
            now = self._database.clock(connection)
            end = None if expires is None else now + expires
            return enter_token(connection, now, role, label, end, runs, groups)

    def identify(self, token: str) -> Caller | None:
        """Return the caller with this token; None for one that is unknown, revoked, expired or
        malformed.
        """
        prefix, _, rest = token.partition("_")
        id_, _, secret = rest.partition("_")
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.id == id_)).one_or_none()
            now = self._database.clock(connection) if row else 0.0
        # Always one comparison in constant time, so that timing does not reveal which part of a
        # token was right.
        same = hmac.compare_digest(hash_secret(secret), row.digest if row else hash_secret(""))
        if not (row and same and prefix == PREFIX and not row.revoked):
            return None
        if row.expires is not None and row.expires <= now:
            return None
        if row.used is None or now - row.used > USED_SECONDS:
            self._note_use(row.id, now)
        return Caller(
            id=row.id,
            role=row.role,
            name=row.label or row.id,
            runs=None if row.runs is None else tuple(row.runs),
            groups=tuple(row.member_of or ()),
        )

    def _note_use(self, id_: str, now: float) -> None:
        with suppress(StorageUnavailableError), self._database.writing() as connection:
            connection.execute(sa.update(tokens).where(tokens.c.id == id_).values(used=now))

    def exists(self, role: Role) -> bool:
        """Return whether a valid token with `role` exists."""
        wanted = (tokens.c.role == role) & tokens.c.revoked.is_(False)
        with self._database.reading() as connection:
            now = self._database.clock(connection)
            wanted &= tokens.c.expires.is_(None) | (tokens.c.expires > now)
            return (
                connection.execute(sa.select(tokens.c.id).where(wanted).limit(1)).first()
                is not None
            )

    def list(self) -> list[dict[str, Any]]:
        """Return one row a token, the oldest first: id, role, label, revoked, created, expires,
        runs, groups and used. Times are in UTC, ISO 8601, or None.
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
                "created": to_iso(row.created),
                "expires": to_iso(row.expires),
                "runs": row.runs,
                "groups": list(row.member_of or ()),
                "used": to_iso(row.used),
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


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret: it is random, so one round of SHA-256 is enough."""
    return digest(secret.encode("utf-8", "surrogatepass"), size=32, algorithm="sha256")


def enter_token(
    connection: sa.Connection,
    now: float,
    role: str,
    label: str,
    expires: float | None,
    runs: Sequence[str] | None,
    groups: Sequence[str],
) -> str:
    """Enter a token within a transaction and return it; `expires` is a time of the database."""
    id_ = secrets.token_hex(4)
    secret = secrets.token_urlsafe(32)
    entry = {
        "id": id_,
        "role": role,
        "label": label,
        "digest": hash_secret(secret),
        "revoked": False,
        "created": now,
        "expires": expires,
        "runs": None if runs is None else [*runs],
        "member_of": [*groups] or None,
        "used": None,
    }
    connection.execute(sa.insert(tokens).values(entry))
    return f"{PREFIX}_{id_}_{secret}"


def check_grant(role: str, runs: Sequence[str] | None, groups: Sequence[str]) -> None:
    """Check what a token, or an invitation, is to allow.

    Raises:
        UserError: the role is unknown, an admin is restricted to runs, or the name of a group is
            none.
    """
    if role not in ROLES:
        raise UserError(
            f"--role is {role[:80]!r}, expected admin or annotator{nearest(role, ROLES)}"
        )
    if role == "admin" and runs is not None:
        raise UserError(
            f"--run is {', '.join(runs)[:80]!r}, but an admin sees all runs; expected --role "
            f"annotator"
        )
    for group in groups:
        check_name(group, "--group")


def check_name(name: str, key: str) -> str:
    """Return the name of a person or a group as it is stored, in one form of Unicode.

    Raises:
        UserError: it is empty or too long, has characters that cannot be seen, or begins with @,
            which is the mark of groups.
    """
    settled = unicodedata.normalize("NFKC", name).strip()
    if not 0 < len(settled) <= LONGEST_NAME or not settled.isprintable() or settled[0] == "@":
        raise UserError(
            f"{key} is {name[:80]!r}, expected 1 to {LONGEST_NAME} printable characters, the first "
            f"of them not @"
        )
    return settled


def to_iso(time: float | None) -> str | None:
    """Return a time in seconds since 1970 as UTC, ISO 8601."""
    return None if time is None else datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
