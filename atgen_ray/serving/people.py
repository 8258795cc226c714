"""People of a service: who they are by their tokens, and what revoking or grouping them does.

A person is everybody who shows a token of one label; a token without one is a person of its own.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.serving.security.tokens import Tokens, check_name
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
        valid = [token for token in held if not token["revoked"]]
        runs = [token["runs"] for token in valid]
        rows.append(
            {
                "name": name,
                "role": "admin" if any(t["role"] == "admin" for t in valid) else "annotator",
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
        revoked = sa.update(tokens).where(_is(name)).values(revoked=True)
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


def _is(name: str) -> sa.ColumnElement[bool]:
    return (tokens.c.label == name) | ((tokens.c.label == "") & (tokens.c.id == name))


def _holds(name: str) -> sa.ColumnElement[bool]:
    return (assignments.c.annotator == name) & (assignments.c.state == "leased")


def _unknown(journal: Journal, name: str) -> UserError:
    known = [row["name"] for row in list_people(journal)]
    return UserError(f"person {name[:80]!r} is unknown{nearest(name, known)}")
