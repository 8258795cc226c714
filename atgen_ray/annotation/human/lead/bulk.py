"""What a lead does with many tasks at once: order them, keep them for people, drop them, open them
again; and its undoing.

Invariants: an action is one transaction under the lock of the run, but for reopening, whose entry
follows. It says how many tasks it changed, and an action that can be undone keeps what each task
was before. Undoing leaves tasks alone that somebody has changed since.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.human.assignees import check_assignable
from atgen_ray.annotation.human.lead.task_filter import TaskFilter
from atgen_ray.annotation.human.lead.task_list import MANY, TaskList
from atgen_ray.annotation.human.revision import reopen_tasks
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskStore,
    TaskUnknownError,
    open_task_store,
)
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignees, assignments, bulk_actions, bulk_tasks, tasks

Verb = Literal["next", "last", "usual", "assign", "drop", "reopen"]
LATEST = 20  # actions that are shown


@dataclass(frozen=True)
class BulkRequest:
    """An action on the tasks `ids`, or else on all that `filter` means.

    `who` is for `assign` (nobody: for everybody), `reason` for `drop` and `reopen`. `expected` is
    how many tasks the caller believes to act on, None where they do not say.
    """

    verb: Verb
    ids: Sequence[str] | None = None
    filter: TaskFilter | None = None
    who: Sequence[str] = ()
    reason: str = ""
    expected: int | None = None


class BulkActions:
    """Acts on the tasks of one run in the name of an admin. Safe to use from threads."""

    def __init__(self, journal: Journal, storage: str, run: str, by: str) -> None:
        """Raise TaskUnknownError or TaskConflictError where `run` has no people."""
        self._journal = journal
        self._list = TaskList(journal, storage, run)
        self._task_store: TaskStore = open_task_store(journal, run)
        self._run = run
        self._by = by

    def act(self, request: BulkRequest) -> dict[str, Any]:
        """Do what is asked; return the action's `number`, and how many `tasks` it changed.

        Raises:
            TaskUnknownError: one of the tasks is not there.
            TaskConflictError: other tasks are meant than the caller expects.
            UserError: tasks are to be kept for somebody whom nobody knows.
        """
        if request.verb == "reopen":
            with self._journal.database.reading() as connection:
                ids = [row["example_id"] for row in self._choose(connection, request)]
            count = reopen_tasks(self._journal, self._run, ids, self._by, request.reason)
            with self._journal.run_transaction(self._run) as connection:
                return self._enter(connection, request, {}, {id_: {} for id_ in ids}, count)
        with self._journal.run_transaction(self._run) as connection:
            rows = self._choose(connection, request)
            if request.verb == "assign":
                detail, before = self._assign(connection, rows, request.who)
            elif request.verb == "drop":
                detail, before = self._drop(connection, rows, request.reason)
            else:
                detail, before = self._order(connection, rows, request.verb)
            return self._enter(connection, request, detail, before, len(before))

    def undo(self, number: int) -> dict[str, Any]:
        """Undo an action; return how many `tasks` are as they were before, and how many were
        `changed` since and stay.

        Raises:
            TaskUnknownError: there is no such action.
            TaskConflictError: it cannot be undone, or was already.
        """
        here = (bulk_actions.c.run == self._run) & (bulk_actions.c.number == number)
        with self._journal.run_transaction(self._run) as connection:
            action = connection.execute(sa.select(bulk_actions).where(here)).mappings().first()
            if action is None:
                raise TaskUnknownError(f"run '{self._run}' has no bulk action {number}")
            if action["undone"] is not None:
                raise TaskConflictError(f"bulk action {number} was undone already")
            if action["verb"] == "reopen":
                raise TaskConflictError("tasks that were opened again cannot be closed again")
            part = (bulk_tasks.c.run == self._run) & (bulk_tasks.c.number == number)
            query = sa.select(bulk_tasks.c.example_id, bulk_tasks.c.before).where(part)
            before = {row.example_id: row.before for row in connection.execute(query)}
            if action["verb"] == "assign":
                done = self._undo_assign(connection, action["detail"], before)
            elif action["verb"] == "drop":
                done = self._undo_drop(connection, part, action["detail"], before)
            else:
                done = self._undo_order(connection, part, action["detail"], before)
            now = self._journal.database.clock(connection)
            connection.execute(sa.update(bulk_actions).where(here).values(undone=now))
        return {"number": number, "tasks": done, "changed": len(before) - done}

    def latest(self) -> list[dict[str, Any]]:
        """Return the latest actions, the last first: number, verb, detail, tasks, by, time,
        undone.
        """
        names = ("number", "verb", "detail", "tasks", "by", "time", "undone")
        query = sa.select(*(bulk_actions.c[name] for name in names))
        query = query.where(bulk_actions.c.run == self._run)
        with self._journal.database.reading() as connection:
            rows = connection.execute(query.order_by(bulk_actions.c.number.desc()).limit(LATEST))
            return [dict(row) for row in rows.mappings()]

    def _choose(self, connection: sa.Connection, request: BulkRequest) -> list[sa.RowMapping]:
        """Return id, state, priority and decision of the tasks that are meant."""
        names = ("example_id", "state", "priority", "decision")
        query = sa.select(*(tasks.c[name] for name in names))
        if request.ids is None:
            meant = self._list.condition(connection, request.filter or TaskFilter())
            rows = list(connection.execute(query.where(meant)).mappings())
        else:
            ids = list(dict.fromkeys(request.ids))
            rows = []
            for piece in _split(ids):
                here = self._task_store.mine & tasks.c.example_id.in_(piece)
                rows += connection.execute(query.where(here)).mappings()
            if len(rows) < len(ids):
                known = {row["example_id"] for row in rows}
                missing = next(id_ for id_ in ids if id_ not in known)
                raise TaskUnknownError(f"run '{self._run}' has no task {missing[:80]!r}")
        if request.expected is not None and request.expected != len(rows):
            raise TaskConflictError(
                f"expected is {request.expected}, but {len(rows)} tasks are meant now; look again"
            )
        return rows

    def _order(
        self, connection: sa.Connection, rows: Sequence[sa.RowMapping], verb: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put tasks before or behind all others, or where they were at first."""
        end = sa.func.min if verb == "next" else sa.func.max
        found = connection.execute(sa.select(end(tasks.c.priority)).where(self._task_store.mine))
        edge = int(found.scalar_one() or 0)
        priority = {"next": min(edge, 0) - 1, "last": max(edge, 0) + 1, "usual": 0}[verb]
        before = {
            row["example_id"]: {"priority": row["priority"]}
            for row in rows
            if row["priority"] != priority
        }
        self._update(connection, list(before), {"priority": priority})
        return {"priority": priority}, before

    def _assign(
        self, connection: sa.Connection, rows: Sequence[sa.RowMapping], who: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keep tasks for `who` alone."""
        names = sorted(set(who))
        check_assignable(connection, self._run, names)
        ids = [row["example_id"] for row in rows]
        held = self._list_assignees(connection, ids)
        before = {id_: {"who": held[id_]} for id_ in ids if held[id_] != names}
        self._keep_for(connection, dict.fromkeys(before, names))
        return {"who": names}, before

    def _drop(
        self, connection: sa.Connection, rows: Sequence[sa.RowMapping], reason: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Drop tasks, but for those that were dropped before."""
        now = self._journal.database.clock(connection)
        decision = {"verdict": "drop", "text": "", "comment": reason, "by": self._by}
        meant = [row for row in rows if row["state"] not in ("dropped", "buried")]
        before = {row["example_id"]: {"decision": row["decision"]} for row in meant}
        values = {"decision": decision, "state": "dropped", "agreement": None, "changed": now}
        taken = [row["example_id"] for row in meant if row["state"] == "taken"]
        open_ = [row["example_id"] for row in meant if row["state"] != "taken"]
        self._update(connection, open_, values)
        self._update(connection, taken, {"decision": decision})
        for id_ in taken:  # the run has their labels
            self._task_store.settle(connection, id_, now)
        return {"decision": decision}, before

    def _undo_order(
        self,
        connection: sa.Connection,
        part: sa.ColumnElement[bool],
        detail: dict[str, Any],
        before: dict[str, Any],
    ) -> int:
        done = 0
        unchanged = tasks.c.priority == detail["priority"]
        by_priority: dict[int, list[str]] = {}
        for id_, was in before.items():
            by_priority.setdefault(was["priority"], []).append(id_)
        for priority, ids in by_priority.items():
            done += self._update(connection, ids, {"priority": priority}, unchanged)
        return done

    def _undo_assign(
        self, connection: sa.Connection, detail: dict[str, Any], before: dict[str, Any]
    ) -> int:
        held = self._list_assignees(connection, list(before))
        same = {id_: was["who"] for id_, was in before.items() if held[id_] == detail["who"]}
        self._keep_for(connection, same)
        return len(same)

    def _undo_drop(
        self,
        connection: sa.Connection,
        part: sa.ColumnElement[bool],
        detail: dict[str, Any],
        before: dict[str, Any],
    ) -> int:
        now = self._journal.database.clock(connection)
        query = sa.select(tasks.c.example_id, tasks.c.decision, tasks.c.state).where(
            self._task_store.mine
            & tasks.c.example_id.in_(sa.select(bulk_tasks.c.example_id).where(part))
        )
        same = [row for row in connection.execute(query) if row.decision == detail["decision"]]
        answered = sa.select(assignments.c.example_id).where(
            (assignments.c.run == self._run) & (assignments.c.state != "leased")
        )
        worked = set(connection.execute(answered.distinct()).scalars())
        # Those that nobody has answered are open again; of the others it depends on the answers.
        plain = [
            row.example_id
            for row in same
            if row.example_id not in worked
            and before[row.example_id]["decision"] is None
            and row.state == "dropped"
        ]
        self._update(connection, plain, {"decision": sa.null(), "state": "open", "changed": now})
        for id_ in {row.example_id for row in same} - set(plain):
            decision = before[id_]["decision"]
            self._update(connection, [id_], {"decision": decision or sa.null()})
            self._task_store.settle(connection, id_, now)
        return len(same)

    def _update(
        self,
        connection: sa.Connection,
        ids: Sequence[str],
        values: dict[str, Any],
        further: sa.ColumnElement[bool] | None = None,
    ) -> int:
        """Change tasks; return how many."""
        done = 0
        for piece in _split(ids):
            here = self._task_store.mine & tasks.c.example_id.in_(piece)
            if further is not None:
                here &= further
            done += connection.execute(sa.update(tasks).where(here).values(values)).rowcount
        return done

    def _list_assignees(
        self, connection: sa.Connection, ids: Sequence[str]
    ) -> dict[str, list[str]]:
        """Return for whom each task is kept, sorted."""
        found: dict[str, list[str]] = {id_: [] for id_ in ids}
        for piece in _split(ids):
            here = (assignees.c.run == self._run) & assignees.c.example_id.in_(piece)
            query = sa.select(assignees.c.example_id, assignees.c.who).where(here)
            for row in connection.execute(query):
                found[row.example_id].append(row.who)
        return {id_: sorted(names) for id_, names in found.items()}

    def _keep_for(self, connection: sa.Connection, who: dict[str, list[str]]) -> None:
        """Replace the people that tasks are kept for."""
        for piece in _split(list(who)):
            here = (assignees.c.run == self._run) & assignees.c.example_id.in_(piece)
            connection.execute(sa.delete(assignees).where(here))
        rows = [
            {"run": self._run, "example_id": id_, "who": name}
            for id_, names in who.items()
            for name in names
        ]
        if rows:
            connection.execute(sa.insert(assignees), rows)

    def _enter(
        self,
        connection: sa.Connection,
        request: BulkRequest,
        detail: dict[str, Any],
        before: dict[str, Any],
        count: int,
    ) -> dict[str, Any]:
        """Enter an action that was done."""
        last = sa.select(sa.func.max(bulk_actions.c.number)).where(bulk_actions.c.run == self._run)
        number = int(connection.execute(last).scalar_one() or 0) + 1
        filter = request.filter.model_dump(exclude_defaults=True) if request.filter else None
        entry = {
            "run": self._run,
            "number": number,
            "verb": request.verb,
            "detail": detail | {"filter": filter, "reason": request.reason or None},
            "tasks": count,
            "by": self._by,
            "time": self._journal.database.clock(connection),
        }
        connection.execute(sa.insert(bulk_actions).values(entry))
        rows = [
            {"run": self._run, "number": number, "example_id": id_, "before": was}
            for id_, was in before.items()
        ]
        if rows:
            connection.execute(sa.insert(bulk_tasks), rows)
        return {"number": number, "tasks": count}


def _split(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield pieces that fit in a statement."""
    return (ids[begin : begin + MANY] for begin in range(0, len(ids), MANY))
