"""For whom tasks are kept: people, and groups that the access tokens of people name."""

from collections.abc import Sequence

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.store.tables import assignments, invites, tokens


def list_people(connection: sa.Connection, run: str) -> list[str]:
    """Return everybody who holds or answered a task of the run."""
    query = sa.select(assignments.c.annotator).where(assignments.c.run == run).distinct()
    return sorted(connection.execute(query).scalars())


def list_assignable(connection: sa.Connection, run: str) -> list[str]:
    """Return the people that tasks can be kept for, then the groups, each with `@` before it; those
    who are only invited are among them.
    """
    people = set(list_people(connection, run))
    groups: set[str] = set()
    name = sa.func.coalesce(sa.func.nullif(tokens.c.label, ""), tokens.c.id)
    for table, person in ((tokens, name), (invites, invites.c.person)):
        query = sa.select(person.label("person"), table.c.runs, table.c.member_of)
        for row in connection.execute(query.where(table.c.revoked.is_(False))):
            if row.runs is None or run in row.runs:
                people.update([row.person] if row.person else ())
                groups.update(f"@{group}" for group in row.member_of or ())
    return [*sorted(people), *sorted(groups)]


def check_assignable(connection: sa.Connection, run: str, who: Sequence[str]) -> None:
    """Raise UserError if somebody is named whom nobody knows, since the tasks would wait for
    ever.
    """
    known = list_assignable(connection, run)
    for name in who:
        if name not in known:
            raise UserError(
                f"who names {name[:80]!r}, expected a person with a token for run '{run}', or "
                f"@group{nearest(name, known)}"
            )
