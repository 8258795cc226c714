"""The assignments of one person to tasks: who may hold a task, answer it or change the answer."""

from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.gold import GoldMixer
from atgen_ray.annotation.human.open_tasks import OpenTasks
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskStore,
    find_last_collections,
    is_closed,
    is_settled,
)
from atgen_ray.store.tables import assignments

PREPARED = 120.0  # seconds for which a task is kept that nobody has opened yet


class OwnAssignments:
    """The assignments of one person in one run, within transactions that hold the run's lock."""

    def __init__(
        self, store: TaskStore, open_tasks: OpenTasks, gold: GoldMixer, annotator: str
    ) -> None:
        self._store = store
        self._open = open_tasks
        self._gold = gold
        self._annotator = annotator
        self.lease_seconds = store.config.lease_minutes * 60

    def enter(self, connection: sa.Connection, example_id: str, now: float) -> None:
        """Enter a lease that begins now."""
        row = {
            "run": self._store.run,
            "annotator": self._annotator,
            "example_id": example_id,
            "leased": now,
            "until": now,
            "state": "leased",
            "revision": 0,
        }
        connection.execute(sa.insert(assignments).values(row))

    def take_in_hand(self, connection: sa.Connection, example_id: str, now: float) -> None:
        """Keep the task for the lease of the run: the person has opened it."""
        opened = sa.func.coalesce(assignments.c.opened, now)
        until = now + self.lease_seconds
        self._store.assign(connection, example_id, self._annotator, until=until, opened=opened)

    def keep_prepared(self, connection: sa.Connection, example_id: str, now: float) -> None:
        """Keep the task for `PREPARED` seconds, or for as long as it is kept already."""
        mine = self._store.assignment(connection, example_id, self._annotator)
        until = max(now + min(PREPARED, self.lease_seconds), mine["until"] if mine else 0.0)
        self._store.assign(connection, example_id, self._annotator, until=until)

    def expect_held(self, connection: sa.Connection, task: sa.RowMapping) -> sa.RowMapping:
        """Return this person's unanswered assignment. Raise TaskConflictError where there is
        none.
        """
        mine = self._store.assignment(connection, task["example_id"], self._annotator)
        if mine is None:
            raise not_yours(task["example_id"])
        if mine["state"] != "leased":
            raise TaskConflictError(f"task '{task['example_id']}' was {mine['state']} by you")
        return mine

    def expect_unsettled(
        self, connection: sa.Connection, task: sa.RowMapping, mine: sa.RowMapping
    ) -> None:
        """Raise TaskConflictError where the person can change nothing any more."""
        if task["decision"] is not None or (mine["state"] == "leased" and is_closed(task)):
            raise TaskConflictError(f"task '{task['example_id']}' was settled without you")
        self._gold.expect_open(connection, task, mine)
        if is_settled(task, find_last_collections(connection, task["run"])):
            raise TaskConflictError(
                f"the run has trained on the label of task '{task['example_id']}': an admin can "
                f"correct it"
            )

    def may_hold(self, connection: sa.Connection, task: Any, mine: Any, now: float) -> bool:
        """Return whether the task is still to be done, and by this person."""
        return task["state"] == "open" and self.has_place(connection, task, mine, now)

    def has_place(self, connection: sa.Connection, task: Any, mine: Any, now: float) -> bool:
        """Return whether the answer or the lease is valid, or nobody else has taken the place since
        it expired.
        """
        if mine.get("state") == "submitted" or mine["until"] > now:
            return True
        others = self._store.count_busy(connection, task["example_id"], self._annotator, now)
        return others < task["wanted"]

    def make_place(self, connection: sa.Connection, task: sa.RowMapping, now: float) -> bool:
        """Return whether there is a place at the task, perhaps one that was only prepared for
        somebody else, who loses it.
        """
        id_ = task["example_id"]
        if self._store.count_busy(connection, id_, self._annotator, now) < task["wanted"]:
            return True
        return self._open.drop_prepared(connection, id_, now)


def not_yours(example_id: str) -> TaskConflictError:
    """Return the error that a person has no assignment to a task."""
    return TaskConflictError(f"task '{example_id}' is not yours, expected one that you leased")
