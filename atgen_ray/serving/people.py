"""People of a service: who they are by their tokens, and what revoking or grouping them does.

A person is everybody who shows a token of one label; a token without one is a person of its own.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.serving.security.callers import covers
from atgen_ray.serving.security.grants import check_name
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, invites, tokens


def list_people(journal: Journal) -> list[dict[str, Any]]:
    """Return one row a person, by name: role, groups, runs (None: all), `tokens` as `Tokens.list`
    has them, `active` (whether any of these is valid) and `used`, the last use in UTC.
    """
    people: dict[str, list[dict[str, Any]]] = {}
    for token in Tokens(journal.database).list():
        people.setdefault(token["label"] or token["id"], []).append(token)
    rows = []
    for name, held in sorted(people.items(), key=lambda item: item[0].casefold()):
        valid = [token for token in held if token["active"]]
        runs = [token["runs"] for token in valid]
        rows.append(
            {
                "name": name,
                "role": _name_role({token["role"] for token in valid}),
                "groups": sorted({group for token in valid for group in token["groups"]}),
                "runs": None if None in runs else sorted({run for some in runs for run in some}),
                "active": bool(valid),
                "used": max((token["used"] for token in held if token["used"]), default=None),
                "tokens": held,
            }
        )
    return rows


def revoke_person(journal: Journal, name: str) -> int:
    """End every session of a person: revoke tokens and links of that person, and give the tasks in
    hand to others; return the number of these. Answers and drafts stay.

    Raises:
        UserError: nobody has that name.
    """
    with journal.database.writing() as connection:
        ended = {"revoked": True, "old_digest": None, "old_until": None}
        revoked = sa.update(tokens).where(_is(name)).values(ended)
        if not connection.execute(revoked).rowcount:
            raise _unknown(journal, name)
        connection.execute(sa.update(invites).where(invites.c.person == name).values(revoked=True))
        held = sa.select(assignments.c.run).where(_holds(name)).distinct()
        names = list(connection.execute(held).scalars())
    released = 0
    for run in names:
        with journal.run_transaction(run) as connection:
            mine = _holds(name) & (assignments.c.run == run)
            now = journal.database.clock(connection)
            freed = sa.update(assignments).where(mine & (assignments.c.until > now))
            released += connection.execute(freed.values(until=now)).rowcount
    return released


def name_tokens(journal: Journal, name: str) -> list[str]:
    """Return the ids of the tokens of a person."""
    with journal.database.reading() as connection:
        return list(connection.execute(sa.select(tokens.c.id).where(_is(name))).scalars())


def list_members(journal: Journal, run: str) -> list[dict[str, Any]]:
    """Return one row a person who may see the run, by name: name, role and groups.

    Raises:
        UserError: no run has that name.
    """
    journal.run(run)
    keys = ("name", "role", "groups")
    return [
        {key: row[key] for key in keys}
        for row in list_people(journal)
        if row["active"] and (row["runs"] is None or any(covers(name, run) for name in row["runs"]))
    ]


def set_member(journal: Journal, name: str, run: str, member: bool) -> None:
    """Let a person see the run with all valid tokens, or no more.

    Raises:
        UserError: nobody or no run has that name, or a token of the person is for all runs, or for
            all that begin with a name.
    """
    journal.run(run)
    valid = _is(name) & tokens.c.revoked.is_(False)
    with journal.database.writing() as connection:
        found = connection.execute(sa.select(tokens.c.id, tokens.c.runs).where(valid)).all()
        if not found:
            raise _unknown(journal, name)
        for row in found:
            wide = row.runs is None or any(covers(each, run) for each in row.runs if each != run)
            if wide and not member:
                raise UserError(
                    f"person {name[:80]!r} has token {row.id}, which is for all runs or for those "
                    f"of a project; expected one that names its runs: revoke it and invite anew"
                )
            if not wide:
                left = [each for each in row.runs if each != run] + [run] * member
                connection.execute(sa.update(tokens).where(tokens.c.id == row.id).values(runs=left))


def set_groups(journal: Journal, name: str, groups: Sequence[str]) -> None:
    """Make the person a member of `groups` and of no others.

    Raises:
        UserError: nobody has that name, or the name of a group is none.
    """
    wanted = sorted({check_name(group, "groups") for group in groups})
    with journal.database.writing() as connection:
        changed = sa.update(tokens).where(_is(name)).values(member_of=wanted or None)
        if not connection.execute(changed).rowcount:
            raise _unknown(journal, name)


def _name_role(roles: set[str]) -> str:
    """Return the highest role among those of a person's tokens."""
    return next((role for role in ("admin", "annotator", "program") if role in roles), "annotator")


def _is(name: str) -> sa.ColumnElement[bool]:
    return (tokens.c.label == name) | ((tokens.c.label == "") & (tokens.c.id == name))


def _holds(name: str) -> sa.ColumnElement[bool]:
    return (assignments.c.annotator == name) & (assignments.c.state == "leased")


def _unknown(journal: Journal, name: str) -> UserError:
    known = [row["name"] for row in list_people(journal)]
    return UserError(f"person {name[:80]!r} is unknown{nearest(name, known)}")
