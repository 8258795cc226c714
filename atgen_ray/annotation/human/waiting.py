"""Where work waits for a person: the runs with tasks that the person could take or has in hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from atgen_ray.annotation.human.open_tasks import OpenTasks
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import runs, tasks

MANY = 1000  # a larger number of open tasks is not counted


@dataclass(frozen=True)
class WaitingRun:
    """A run with tasks for a person: `held` are leased already, `open` could be taken (`MANY` at
    most are counted).
    """

    name: str
    held: int
    open: int

    @property
    def many(self) -> bool:
        """Return whether there are more open tasks than were counted."""
        return self.open >= MANY


def list_waiting(journal: Journal, annotator: str, groups: Sequence[str] = ()) -> list[WaitingRun]:
    """Return the runs in which tasks wait for the person, the newest first."""
    waits = sa.select(tasks.c.run).where((tasks.c.run == runs.c.name) & (tasks.c.state == "open"))
    query = sa.select(runs.c.name).where(waits.exists()).order_by(runs.c.created.desc())
    found = list[WaitingRun]()
    with journal.database.reading() as connection:
        now = journal.database.clock(connection)
        for name in connection.execute(query).scalars().all():
            own = OpenTasks(name, annotator, groups)
            held = len(own.list_held(connection, now, MANY))
            count = own.count(connection, now, MANY)
            if held or count:
                found.append(WaitingRun(name, held, count))
    return found
