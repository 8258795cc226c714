"""Which open tasks a person can take, in the order of the queue: those kept for the person or one
of their groups first, then those kept for nobody.

Each query walks the index of open tasks and looks the few other rows of a task up by key, so that
its time does not grow with the number of tasks that are done.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from atgen_ray.store.tables import assignees, assignments, tasks

# Of the queue, as in the index `tasks_by_state`.
ORDER = (tasks.c.priority, tasks.c.round, tasks.c.rank, tasks.c.example_id)
_LEASED = assignments.c.state == sa.literal_column("'leased'")  # as in the index `leases`


class OpenTasks:
    """The open tasks of one run for one person. Its methods run inside a transaction."""

    def __init__(self, run: str, annotator: str, groups: Sequence[str] = ()) -> None:
        self._run = run
        self._annotator = annotator
        self._names = [annotator, *(f"@{group}" for group in groups)]
        # The range is always met; with it SQLite takes the index `leases`, which has few rows.
        mine = (assignments.c.run == run) & (assignments.c.annotator == annotator)
        self.leases = mine & _LEASED & (assignments.c.until >= 0.0)

    def find(
        self,
        connection: sa.Connection,
        now: float,
        count: int,
        after: sa.RowMapping | None = None,
    ) -> list[str]:
        """Return up to `count` open tasks that lack an annotator and that this person has not seen,
        with `after` only those behind that task.
        """
        found = list[str]()
        for which in self._list_shares(connection):
            if len(found) < count:
                query = sa.select(tasks.c.example_id).where(self._is_free(now) & which)
                if after is not None:
                    query = query.where(_is_behind(after))
                query = query.order_by(*ORDER)
                found += connection.execute(query.limit(count - len(found))).scalars()
        return found

    def list_held(self, connection: sa.Connection, now: float, limit: int) -> list[str]:
        """Return the tasks that this person has leased and may continue: those in hand, and then
        the prepared ones, each in the order of the queue.
        """
        # The place of an expired lease may be somebody else's by now.
        mine = self._is_for_me() & (self._count_places(now) < tasks.c.wanted)
        current = (tasks.c.state == "open") & ((assignments.c.until > now) | mine)
        return self._list_leases(connection, current, limit)

    def list_leases(self, connection: sa.Connection, limit: int) -> list[str]:
        """Return the tasks that this person has leased, as `list_held` does, and those that others
        have taken since.
        """
        return self._list_leases(connection, sa.true(), limit)

    def count(self, connection: sa.Connection, now: float, limit: int) -> int:
        """Count the tasks that `find` has, up to `limit`."""
        total = 0
        for which in self._list_shares(connection):
            query = sa.select(tasks.c.example_id).where(self._is_free(now) & which)
            rows = query.limit(limit - total).subquery()
            counted = connection.execute(sa.select(sa.func.count()).select_from(rows))
            total += int(counted.scalar_one())
        return total

    def is_for_me(self, connection: sa.Connection, example_id: str) -> bool:
        """Return whether the task is kept for this person, or for nobody."""
        here = (assignees.c.run == self._run) & (assignees.c.example_id == example_id)
        names = connection.execute(sa.select(assignees.c.who).where(here)).scalars().all()
        return not names or not set(self._names).isdisjoint(names)

    def claim_prepared(self, connection: sa.Connection, now: float) -> list[str]:
        """Free one task that is only prepared for another person, the last that was, and return it;
        the list is empty where there is none.
        """
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        query = sa.select(assignments.c.example_id).join(tasks, joined)
        free = (tasks.c.state == "open") & tasks.c.gold.is_(None)
        query = query.where(self._is_prepared(now) & free & ~self._is_seen())
        query = query.order_by(assignments.c.leased.desc(), assignments.c.example_id)
        for id_ in connection.execute(query).scalars().all():
            if self.is_for_me(connection, id_) and self.drop_prepared(connection, id_, now):
                return [id_]
        return []

    def drop_prepared(self, connection: sa.Connection, example_id: str, now: float) -> bool:
        """Take a task from one of those for whom it is only prepared; return False where there is
        nobody.
        """
        here = self._is_prepared(now) & (assignments.c.example_id == example_id)
        who = sa.select(assignments.c.annotator).where(here).limit(1).scalar_subquery()
        freed = sa.delete(assignments).where(here & (assignments.c.annotator == who))
        return bool(connection.execute(freed).rowcount)

    def forget_prepared(self, connection: sa.Connection, now: float) -> None:
        """Remove the leases of this person that expired before the task was opened."""
        expired = (assignments.c.until <= now) & assignments.c.opened.is_(None)
        connection.execute(sa.delete(assignments).where(self.leases & expired))

    def _list_leases(
        self, connection: sa.Connection, which: sa.ColumnElement[bool], limit: int
    ) -> list[str]:
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        query = sa.select(tasks.c.example_id).join(assignments, joined)
        query = query.where(self.leases & which)
        query = query.order_by(assignments.c.opened.is_(None), *ORDER)
        return list(connection.execute(query.limit(limit)).scalars())

    def _list_shares(self, connection: sa.Connection) -> list[sa.ColumnElement[bool]]:
        """Return the conditions for tasks kept for this person, and for those kept for nobody."""
        anybody = sa.select(assignees.c.who).where(assignees.c.run == self._run).limit(1)
        if connection.execute(anybody).first() is None:
            return [sa.true()]
        return [self._is_mine(), ~self._is_kept()]

    def _is_for_me(self) -> sa.ColumnElement[bool]:
        return self._is_mine() | ~self._is_kept()

    def _is_mine(self) -> sa.ColumnElement[bool]:
        here = assignees.c.run == self._run
        mine = sa.select(assignees.c.example_id).where(here & assignees.c.who.in_(self._names))
        return tasks.c.example_id.in_(mine)

    def _is_kept(self) -> sa.ColumnElement[bool]:
        """Return the condition for tasks that are kept for anybody."""
        kept = sa.select(assignees.c.who).where(
            (assignees.c.run == self._run) & (assignees.c.example_id == tasks.c.example_id)
        )
        return kept.correlate(tasks).exists()

    def _is_free(self, now: float) -> sa.ColumnElement[bool]:
        """Return the condition for open tasks with a place that this person has not seen, without
        gold items.
        """
        mine = (tasks.c.run == self._run) & (tasks.c.state == "open") & tasks.c.gold.is_(None)
        return mine & ~self._is_seen() & (self._count_places(now) < tasks.c.wanted)

    def _count_places(self, now: float) -> sa.ScalarSelect[int]:
        """Return the number of answers to a task and of valid leases on it."""
        work = assignments.alias("work")
        live = (work.c.state == "leased") & (work.c.until > now)
        busy = sa.select(sa.func.count()).where(
            (work.c.run == self._run)
            & (work.c.example_id == tasks.c.example_id)
            & (live | (work.c.state == "submitted"))
        )
        return busy.correlate(tasks).scalar_subquery()

    def _is_seen(self) -> sa.ColumnElement[bool]:
        own = assignments.alias("own")
        seen = sa.select(own.c.state).where(
            (own.c.run == self._run)
            & (own.c.example_id == tasks.c.example_id)
            & (own.c.annotator == self._annotator)
        )
        return seen.correlate(tasks).exists()

    def _is_prepared(self, now: float) -> sa.ColumnElement[bool]:
        others = (assignments.c.run == self._run) & (assignments.c.annotator != self._annotator)
        return others & _LEASED & (assignments.c.until > now) & assignments.c.opened.is_(None)


def is_busy(now: float) -> sa.ColumnElement[bool]:
    """Return the condition that an assignment occupies one of the places at its task."""
    live = (assignments.c.state == "leased") & (assignments.c.until > now)
    return live | (assignments.c.state == "submitted")


def _is_behind(task: sa.RowMapping) -> sa.ColumnElement[bool]:
    """Return the condition for tasks behind `task` in the order of the queue."""
    return sa.tuple_(*ORDER) > sa.tuple_(*(task[column.name] for column in ORDER))
