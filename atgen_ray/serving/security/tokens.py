"""Bearer tokens with a role. The database holds only their hashes."""

import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import sqlalchemy as sa

from atgen_ray.core.errors import StorageUnavailableError, UserError, nearest
from atgen_ray.serving.security.callers import Caller, is_valid, make_caller
from atgen_ray.serving.security.grants import (
    PREFIX,
    ROLES,
    Grant,
    Role,
    check_grant,
    check_limit,
    enter_token,
    hash_secret,
    settle_scopes,
    to_iso,
)
from atgen_ray.store.database import Database
from atgen_ray.store.tables import sessions, tokens

USED_SECONDS = 300.0  # how exactly the last use of a token is known
GRACE_SECONDS = 86_400.0  # how long the secret before a rotation still works
LONGEST_GRACE = 30 * 86_400.0


class Tokens:
    """The tokens in a database. Safe to use from threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(
        self,
        role: str = "",
        label: str = "",
        expires: float | None = None,
        runs: Sequence[str] | None = None,
        groups: Sequence[str] = (),
        scopes: Sequence[str] = (),
        minute_requests: int | None = None,
        day_tokens: int | None = None,
    ) -> str:
        """Create a token and return it as `atgen_<id>_<secret>`. It cannot be shown again, since
        only its hash is stored.

        Args:
            role: admin or annotator; "" leaves it to `scopes`, of which `admin` and `annotate` are
                these roles.
            expires: seconds from now until it ends; None: it never does.
            runs: names of the runs that it may see, `news-*` for those that begin so; None: all.
            scopes: what it may do beside that, of SCOPES.
            minute_requests: requests a minute that it may send.
            day_tokens: tokens of models that it may use a day.

        Raises:
            UserError: the role or a scope is unknown, an admin is restricted to runs, the name of a
                group is none, or a limit is not positive.
        """
        settled, scopes = settle_scopes(role, scopes)
        check_grant(settled if settled in ROLES else role or "annotator", runs, groups)
        check_limit(minute_requests, "--per-minute")
        check_limit(day_tokens, "--tokens-per-day")
        with self.database.writing() as connection:
            now = self.database.clock(connection)
            end = None if expires is None else now + expires
            grant = Grant(settled, label, end, runs, groups, scopes, minute_requests, day_tokens)
            return enter_token(connection, now, grant)

    def identify(self, token: str) -> Caller | None:
        """Return the caller with this token; None for one that is unknown, revoked, expired,
        rotated out or malformed.
        """
        prefix, _, rest = token.partition("_")
        id_, _, secret = rest.partition("_")
        with self.database.reading() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.id == id_)).one_or_none()
            now = self.database.clock(connection) if row else 0.0
        shown = hash_secret(secret)
        # Always the same comparisons in constant time, so that timing does not reveal which part of
        # a token was right.
        nobody = hash_secret("")
        same = hmac.compare_digest(shown, row.digest if row else nobody)
        old = hmac.compare_digest(shown, (row.old_digest if row else None) or nobody)
        if not row or not (same or old) or prefix != PREFIX or not is_valid(row, shown, now):
            return None
        note_use(self.database, row, now)
        return make_caller(row, shown)

    def is_active(self, caller: Caller, run: str | None = None) -> bool:
        """Return whether what let the caller in still does: the token, its secret and, in a
        browser, the session; and whether `run`, if given, is still shared with it.
        """
        query = sa.select(tokens).where(tokens.c.id == caller.id)
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
            now = self.database.clock(connection)
            if row is None or not is_valid(row, caller.credential, now):
                return False
            if run is not None and not make_caller(row, "").may_see(run):
                return False
            if caller.session is None:
                return True
            open_ = (sessions.c.id == caller.session) & (sessions.c.expires > now)
            return connection.execute(sa.select(sessions.c.id).where(open_)).first() is not None

    def find_caller(self, id: str) -> Caller | None:
        """Return the caller of a token that is valid still, for work that goes on without it."""
        with self.database.reading() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.id == id)).one_or_none()
            now = self.database.clock(connection)
        if row is None or not is_valid(row, row.digest, now):
            return None
        return make_caller(row, row.digest)

    def exists(self, role: Role) -> bool:
        """Return whether a valid token with `role` exists."""
        wanted = (tokens.c.role == role) & tokens.c.revoked.is_(False)
        with self.database.reading() as connection:
            now = self.database.clock(connection)
            wanted &= tokens.c.expires.is_(None) | (tokens.c.expires > now)
            return (
                connection.execute(sa.select(tokens.c.id).where(wanted).limit(1)).first()
                is not None
            )

    def list(self) -> list[dict[str, Any]]:
        """Return one row a token, the oldest first: id, role, label, revoked, whether it is
        `active`, created, expires, runs, groups, used, scopes, minute_requests, day_tokens, and
        until when the secret before the last rotation works (`old_until`). Times are in UTC, ISO
        8601, or None.
        """
        with self.database.reading() as connection:
            now = self.database.clock(connection)
            rows = connection.execute(
                sa.select(tokens).order_by(tokens.c.created, tokens.c.id)
            ).all()
        return [
            {
                "id": row.id,
                "role": row.role,
                "label": row.label,
                "revoked": row.revoked,
                "active": not row.revoked and (row.expires is None or row.expires > now),
                "created": to_iso(row.created),
                "expires": to_iso(row.expires),
                "runs": row.runs,
                "groups": list(row.member_of or ()),
                "used": to_iso(row.used),
                "scopes": list(row.scopes or ()),
                "minute_requests": row.minute_requests,
                "day_tokens": row.day_tokens,
                "old_until": to_iso(row.old_until),
            }
            for row in rows
        ]

    def revoke(self, id_: str) -> str:
        """Make a token invalid from now on, with its sessions and streams; return its id.

        Args:
            id_: the token's id, or its label if no other valid token has that.

        Raises:
            UserError: no token has that id.
        """
        found = self.find(id_)
        with self.database.writing() as connection:
            ended = sa.update(tokens).where(tokens.c.id == found)
            connection.execute(ended.values(revoked=True, old_digest=None, old_until=None))
            connection.execute(sa.delete(sessions).where(sessions.c.token == found))
        return found

    def rotate(self, id_: str, grace: float = GRACE_SECONDS) -> str:
        """Give a token a new secret and return the whole token; it keeps its id, role and limits.

        Args:
            id_: the token's id, or its label if no other valid token has that.
            grace: seconds that the secret of today still works; one before it ends at once.

        Raises:
            UserError: no token has that id, it is revoked or expired, or the grace is out of its
                range.
        """
        if not 0 <= grace <= LONGEST_GRACE:
            raise UserError(f"--grace is {grace:g} seconds, expected 0 to {LONGEST_GRACE:g}")
        found = self.find(id_)
        secret = secrets.token_urlsafe(32)
        with self.database.writing() as connection:
            now = self.database.clock(connection)
            valid = (tokens.c.id == found) & tokens.c.revoked.is_(False)
            valid &= tokens.c.expires.is_(None) | (tokens.c.expires > now)
            turned = (
                sa.update(tokens)
                .where(valid)
                .values(
                    old_digest=tokens.c.digest, old_until=now + grace, digest=hash_secret(secret)
                )
            )
            if not connection.execute(turned).rowcount:
                raise UserError(
                    f"token {id_[:80]!r} is revoked or has ended; `atgen-ray token create` makes a "
                    f"new one"
                )
        return f"{PREFIX}_{found}_{secret}"

    def find(self, name: str) -> str:
        """Return the id of the token with this id, or with this label if one valid token has it.

        Raises:
            UserError: no token has it, or several have that label.
        """
        rows = self.list()
        if any(row["id"] == name for row in rows):
            return name
        held = [row["id"] for row in rows if name and row["label"] == name and row["active"]]
        if len(held) == 1:
            return str(held[0])
        if held:
            raise UserError(
                f"token {name[:80]!r} is the label of {len(held)} tokens, expected one of their "
                f"ids: {', '.join(held[:10])}"
            )
        known = [row["id"] for row in rows] + [row["label"] for row in rows if row["label"]]
        raise UserError(f"token {name[:80]!r} is unknown{nearest(name, known)}")


def note_use(database: Database, row: Any, now: float) -> None:
    """Enter when the token of `row` was last used, seldom: reads would become writes."""
    if row.used is not None and now - row.used <= USED_SECONDS:
        return
    with suppress(StorageUnavailableError), database.writing() as connection:
        connection.execute(sa.update(tokens).where(tokens.c.id == row.id).values(used=now))


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
