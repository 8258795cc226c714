"""Invitations: links with which people make a token of their own.

A link names a role, runs, groups, an end and a number of uses. Only the digest of its secret is
stored, and each use is counted in the transaction that makes the token. The names of people are
keys of their answers, so a link lets nobody in under the name of somebody who is there.
"""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.serving.security.grants import (
    Grant,
    check_grant,
    check_name,
    enter_token,
    hash_secret,
    to_iso,
)
from atgen_ray.store.database import Database
from atgen_ray.store.tables import assignments, invites, runs, tokens

PATH = "/invite"
DAY = 86_400.0  # seconds
LONGEST_DAYS = 365
TOKEN_DAYS = 180.0  # life of a token that an invitation makes, unless it says otherwise
LONGEST_TOKEN_DAYS = 3650
MOST_USES = 1000
RESERVED = ("imported", "human", "admin", "everybody")


class InviteError(UserError):
    """The link is unknown, revoked, expired or used up."""


@dataclass(frozen=True)
class Invite:
    """What a link gives."""

    id: str
    role: str
    runs: tuple[str, ...] | None
    groups: tuple[str, ...]
    person: str | None
    token_days: float = TOKEN_DAYS


class Invites:
    """The invitations in a database. Safe to use from threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(
        self,
        author: str,
        role: str = "annotator",
        runs_: Sequence[str] | None = None,
        groups: Sequence[str] = (),
        days: float = 7.0,
        uses: int = 1,
        person: str | None = None,
        token_days: float = TOKEN_DAYS,
    ) -> str:
        """Create an invitation and return the path of its link, which cannot be shown again.

        Args:
            author: who invites.
            runs_: names of the runs that are shared; None: all.
            days: until the link ends; tokens that were made by it stay.
            person: for whom the link is, who may be there already; it lets in nobody else.
            token_days: life of each token that the link makes.

        Raises:
            UserError: as `check_grant`, a run is unknown, or a number is out of its range.
        """
        check_grant(role, runs_, groups)
        if not 0 < days <= LONGEST_DAYS:
            raise UserError(f"--expires is {days:g} days, expected more than 0, at most 365")
        if not 1 <= uses <= MOST_USES:
            raise UserError(f"--uses is {uses}, expected 1 to {MOST_USES}")
        if not 0 < token_days <= LONGEST_TOKEN_DAYS:
            raise UserError(
                f"--token-expires is {token_days:g} days, expected more than 0, at most "
                f"{LONGEST_TOKEN_DAYS}"
            )
        secret = secrets.token_urlsafe(24)
        id_ = secrets.token_hex(4)
        with self.database.writing() as connection:
            check_runs(connection, runs_)
            now = self.database.clock(connection)
            entry = {
                "id": id_,
                "digest": hash_secret(secret),
                "role": role,
                "runs": None if runs_ is None else [*runs_],
                "member_of": [check_name(group, "--group") for group in groups] or None,
                "person": None if person is None else check_name(person, "--label"),
                "uses": 0,
                "max_uses": 1 if person is not None else uses,
                "expires": now + days * DAY,
                "created": now,
                "author": author,
                "revoked": False,
                "token_days": token_days,
            }
            connection.execute(sa.insert(invites).values(entry))
        return f"{PATH}?key={id_}_{secret}"

    def find(self, key: str) -> Invite:
        """Return the invitation of a link, which is not used by this; raises InviteError."""
        with self.database.reading() as connection:
            return self._find(connection, key)

    def accept(self, key: str, name: str) -> str:
        """Use the link once for the person `name` and return the new token.

        Raises:
            InviteError: the link is not valid any more.
            UserError: the name is none, or belongs to somebody.
        """
        with self.database.writing() as connection:
            if connection.dialect.name == "postgresql":
                # Of two people who ask for one name at the same time one must see the other.
                connection.execute(sa.text("LOCK TABLE tokens IN SHARE ROW EXCLUSIVE MODE"))
            found = self._find(connection, key)
            label = found.person or check_name(name, "the name")
            if found.person is None and _is_taken(connection, label):
                raise UserError(
                    f"the name is {label!r}, which somebody has already; expected another one. "
                    f"Whoever is that person asks the lead for a link of their own"
                )
            used = sa.update(invites).where(
                (invites.c.id == found.id) & (invites.c.uses < invites.c.max_uses)
            )
            if not connection.execute(used.values(uses=invites.c.uses + 1)).rowcount:
                raise _invalid()
            now = self.database.clock(connection)
            end = now + found.token_days * DAY
            grant = Grant(found.role, label, end, found.runs, found.groups)
            return enter_token(connection, now, grant)

    def list(self) -> list[dict[str, Any]]:
        """Return one row an invitation, the newest first: id, role, runs, groups, person, uses,
        max_uses, expires, created, author, and whether it is `open` still.
        """
        query = sa.select(invites).order_by(invites.c.created.desc(), invites.c.id)
        with self.database.reading() as connection:
            now = self.database.clock(connection)
            rows = connection.execute(query).all()
        return [
            {
                "id": row.id,
                "role": row.role,
                "runs": row.runs,
                "groups": list(row.member_of or ()),
                "person": row.person,
                "uses": row.uses,
                "max_uses": row.max_uses,
                "expires": to_iso(row.expires),
                "created": to_iso(row.created),
                "author": row.author,
                "token_days": row.token_days or TOKEN_DAYS,
                "open": not row.revoked and row.expires > now and row.uses < row.max_uses,
            }
            for row in rows
        ]

    def revoke(self, id_: str) -> None:
        """Make a link invalid from now on; tokens that were made by it stay.

        Raises:
            UserError: no invitation has that id.
        """
        with self.database.writing() as connection:
            ended = sa.update(invites).where(invites.c.id == id_).values(revoked=True)
            done = connection.execute(ended)
        if not done.rowcount:
            known = [row["id"] for row in self.list()]
            raise UserError(f"invitation {id_[:80]!r} is unknown{nearest(id_, known)}")

    def _find(self, connection: sa.Connection, key: str) -> Invite:
        id_, _, secret = key.partition("_")
        # The database is not asked for what cannot be a key: not every database takes a NUL.
        sane = id_.isascii() and id_.isalnum()
        row = (
            connection.execute(sa.select(invites).where(invites.c.id == id_)).one_or_none()
            if sane
            else None
        )
        same = hmac.compare_digest(hash_secret(secret), row.digest if row else hash_secret(""))
        if not row or not same or row.revoked or row.uses >= row.max_uses:
            raise _invalid()
        if row.expires <= self.database.clock(connection):
            raise _invalid()
        shared = None if row.runs is None else tuple(row.runs)
        days = row.token_days or TOKEN_DAYS  # an invitation of before says nothing
        return Invite(row.id, row.role, shared, tuple(row.member_of or ()), row.person, days)


def read_id(link: str) -> str:
    """Return the public id of the invitation in a link."""
    return link.partition("key=")[2].partition("_")[0]


def check_runs(connection: sa.Connection, names: Sequence[str] | None) -> None:
    """Check that there are runs of these names; raises UserError."""
    known = set(connection.execute(sa.select(runs.c.name)).scalars())
    for name in names or ():
        if name not in known and not name.endswith("*"):
            raise UserError(f"run '{name[:80]}' is unknown{nearest(name, sorted(known))}")


def _is_taken(connection: sa.Connection, name: str) -> bool:
    """Return whether somebody has the name, in any case of its letters: as a label, as the id of a
    token without one, or of earlier answers.
    """
    folded = name.casefold()
    if folded in RESERVED:
        return True
    rows = connection.execute(sa.select(tokens.c.id, tokens.c.label)).all()
    known = {(row.label or row.id).casefold() for row in rows} | {row.id for row in rows}
    if folded in known:
        return True
    people = sa.select(assignments.c.annotator).distinct()
    return folded in {who.casefold() for who in connection.execute(people).scalars()}


def _invalid() -> InviteError:
    return InviteError("this link is not valid any more; whoever sent it can make another one")
