"""Access to the tables of tasks and assignments, within transactions of the queue and of the
run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.open_tasks import is_busy
from atgen_ray.annotation.human.resolution import CLOSED, HumanAnswer, Resolution, resolve
from atgen_ray.annotation.human.run_labels import renew_label
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.config.annotation import list_stored
from atgen_ray.core.errors import UserError
from atgen_ray.store.events import STEP
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, events, tasks

SETTLED = ("answered", "dropped")  # states of a task that the run may collect
IMPORTED = "imported"  # note of an imported answer, for which nobody is paid


class TaskUnknownError(UserError):
    """There is no such run, or no such task in it."""


class TaskConflictError(UserError):
    """The task is in a state that does not allow this."""


def find_human(config: Mapping[str, Any]) -> HumanAnnotatorConfig | None:
    """Return the human annotator in a run's configuration as the journal has it, or None."""
    for part in list_stored(config):
        if part.get("type") == "human":
            return HumanAnnotatorConfig.model_validate(part)
    return None


class TaskStore:
    """The tasks of one run. Its methods run inside a transaction that holds the run's lock."""

    def __init__(self, run: str, config: HumanAnnotatorConfig) -> None:
        self.run = run
        self.config = config
        self.mine = tasks.c.run == run

    def task(self, connection: sa.Connection, example_id: str) -> sa.RowMapping:
        """Return one task. Raise TaskUnknownError where there is none."""
        query = sa.select(tasks).where(self.mine & (tasks.c.example_id == example_id))
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise TaskUnknownError(f"run '{self.run}' has no task {example_id[:80]!r}")
        return row

    def assignment(
        self, connection: sa.Connection, example_id: str, annotator: str
    ) -> sa.RowMapping | None:
        """Return one person's assignment to a task, or None."""
        query = sa.select(assignments).where(self._key(example_id, annotator))
        return connection.execute(query).mappings().one_or_none()

    def assign(
        self, connection: sa.Connection, example_id: str, annotator: str, **values: Any
    ) -> None:
        """Update one person's assignment to a task."""
        connection.execute(
            sa.update(assignments).where(self._key(example_id, annotator)).values(values)
        )

    def answers(
        self, connection: sa.Connection, example_ids: Sequence[str]
    ) -> dict[str, list[sa.RowMapping]]:
        """Return what people submitted, skipped or flagged, by task, the oldest first."""
        found: dict[str, list[sa.RowMapping]] = {id_: [] for id_ in example_ids}
        here = assignments.c.run == self.run
        if len(example_ids) <= 500:  # databases limit the parameters of a statement
            here &= assignments.c.example_id.in_(example_ids)
        query = sa.select(assignments).where(here & (assignments.c.state != "leased"))
        query = query.order_by(assignments.c.answered, assignments.c.annotator)
        for row in connection.execute(query).mappings():
            if row["example_id"] in found:
                found[row["example_id"]].append(row)
        return found

    def resolve(self, connection: sa.Connection, task: sa.RowMapping) -> Resolution:
        """Return the state of a task that follows from the answers to it."""
        return self._resolve(self.answers(connection, [task["example_id"]]), task)

    def _resolve(
        self, given: Mapping[str, Sequence[sa.RowMapping]], task: sa.RowMapping
    ) -> Resolution:
        rows = given[task["example_id"]]
        answers = [
            HumanAnswer(row["annotator"], row["state"], row["text"], row["note"]) for row in rows
        ]
        return resolve(answers, task["wanted"], task["decision"], self.config, task["most"])

    def settle(self, connection: sa.Connection, example_id: str, now: float) -> str:
        """Store and return the state of a task after something changed.

        Where the run took a label of it before, that label changes in the same transaction, at no
        cost; until the task is settled again, the run keeps the label that it has.
        """
        task = self.task(connection, example_id)
        given = self.answers(connection, [example_id])
        outcome = self._resolve(given, task)
        state: str = outcome.state
        if task["gold"] is not None:
            return "open"  # for everybody, whatever anybody says of it
        if task["collected"] is not None and state in SETTLED:
            state = renew_label(connection, task, given[example_id], outcome, now)
        here = self.mine & (tasks.c.example_id == example_id)
        values = {
            "state": state,
            "wanted": outcome.wanted,
            "agreement": outcome.agreement,
            "changed": now,
        }
        connection.execute(sa.update(tasks).where(here).values(values))
        return state

    def count_busy(
        self, connection: sa.Connection, example_id: str, exclude: str, now: float
    ) -> int:
        """Count answers to a task, and valid leases on it, of people other than `exclude`."""
        busy = sa.select(sa.func.count()).where(
            (assignments.c.run == self.run)
            & (assignments.c.example_id == example_id)
            & (assignments.c.annotator != exclude)
            & is_busy(now)
        )
        return int(connection.execute(busy).scalar_one())

    def _key(self, example_id: str, annotator: str) -> sa.ColumnElement[bool]:
        here = (assignments.c.run == self.run) & (assignments.c.example_id == example_id)
        return here & (assignments.c.annotator == annotator)


def is_closed(task: sa.RowMapping) -> bool:
    """Return whether the run has taken the label or given the task up."""
    return task["state"] in CLOSED


def find_last_collections(connection: sa.Connection, run: str) -> list[tuple[int, float]]:
    """Return round and time at which the run had all labels of a round, and began to train."""
    # Written as in the index over committed steps.
    committed = (events.c.run == run) & (events.c.kind == sa.literal_column(f"'{STEP}'"))
    query = sa.select(events.c.round, events.c.time).where(
        committed & (events.c.step == "annotation") & events.c.round.is_not(None)
    )
    return [(row.round, row.time) for row in connection.execute(query)]


def is_settled(task: sa.RowMapping, collections: Sequence[tuple[int, float]]) -> bool:
    """Return whether the run has given the task up, or has trained on its label as it is now."""
    return task["state"] == "buried" or (
        task["state"] == "taken"
        and any(round >= task["round"] and time >= task["changed"] for round, time in collections)
    )


def open_task_store(journal: Journal, run: str) -> TaskStore:
    """Return the task store of a run.

    Raises:
        TaskUnknownError: there is no such run.
        TaskConflictError: nobody labels for it.
    """
    try:
        record = journal.run(run)
    except UserError as error:
        raise TaskUnknownError(str(error)) from None
    config = find_human(record.config)
    if config is None:
        raise TaskConflictError(
            f"run '{run}' has no human annotator, expected annotator.type: human"
        )
    return TaskStore(run, config)
