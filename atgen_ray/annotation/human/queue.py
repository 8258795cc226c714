"""The queue of tasks: leases, drafts, answers and their undoing, each one transaction under the
lock of the run.

All state is in the database, so any replica answers any request. A request that changes something
carries a key of its sender's making; sent again, it is answered as the first time and counts once.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskStore,
    is_busy,
    is_closed,
    open_task_store,
)
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, receipts, tasks

Verdict = Literal["submitted", "skipped", "flagged"]
AT_ONCE = 50  # leases of one person
HISTORY = 200  # of one person's latest tasks are shown again
Body = dict[str, Any]


class Queue:
    """The tasks of one run, for one person. Every method may be called on any replica, at once with
    others.

    All raise TaskUnknownError for a run or task that is not there, and TaskConflictError where
    others were quicker.
    """

    def __init__(self, journal: Journal, run: str, annotator: str) -> None:
        self._journal = journal
        self._annotator = annotator
        self._desk: TaskStore = open_task_store(journal, run)
        self._lease = self._desk.config.lease_minutes * 60

    def lease(self, count: int = 1, besides: Sequence[str] = ()) -> list[Body]:
        """Up to `count` tasks to work on, but for those in `besides`: first those held already,
        then open ones.
        """
        with self._journal.run_transaction(self._desk.run) as connection:
            now = self._journal.database.clock(connection)
            held = self._list_held(connection, now)
            chosen = [id_ for id_ in held if id_ not in besides][:count]
            left = min(count - len(chosen), AT_ONCE - len(held))
            if left > 0:
                fresh = self._find_open(connection, now, left)
                rows = [
                    self._key | {"example_id": id_, "leased": now, "until": now} for id_ in fresh
                ]
                rows = [row | {"state": "leased", "revision": 0} for row in rows]
                if rows:
                    connection.execute(sa.insert(assignments), rows)
                chosen += fresh
            for id_ in chosen:
                self._desk.assign(connection, id_, self._annotator, until=now + self._lease)
            return self._show(connection, chosen, now)

    def history(self) -> list[Body]:
        """The person's latest tasks, held or answered, the oldest first."""
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        query = sa.select(tasks.c.example_id).join(assignments, joined)
        query = query.where(self._desk.mine & (assignments.c.annotator == self._annotator))
        query = query.order_by(
            assignments.c.leased.desc(), tasks.c.round.desc(), tasks.c.rank.desc()
        ).limit(HISTORY)
        with self._journal.database.reading() as connection:
            ids = list(connection.execute(query).scalars())[::-1]
            return self._show(connection, ids, self._journal.database.clock(connection))

    def save_draft(self, example_id: str, text: str, revision: int) -> Body:
        """Keeps what was typed so far, unless a later `revision` is kept already, and renews the
        lease.
        """
        with self._journal.run_transaction(self._desk.run) as connection:
            now = self._journal.database.clock(connection)
            task = self._desk.task(connection, example_id)
            mine = self._expect_held(connection, task)
            until = (
                now + self._lease if self._may_hold(connection, task, mine, now) else mine["until"]
            )
            values: Body = {"until": until}
            if revision >= mine["revision"]:
                values |= {"draft": text, "revision": revision}
            self._desk.assign(connection, example_id, self._annotator, **values)
            return self._show(connection, [example_id], now)[0]

    def answer(
        self, key: str, example_id: str, verdict: Verdict, text: str, seconds: float | None = None
    ) -> Body:
        """Submits `text`, or skips or flags the task with `text` as the reason.

        An answer that comes too late is kept as the draft, so that nothing typed is lost.
        """

        def act(connection: sa.Connection, now: float) -> Body:
            task = self._desk.task(connection, example_id)
            mine = self._desk.assignment(connection, example_id, self._annotator)
            given = "text" if verdict == "submitted" else "note"
            if mine is not None and mine["state"] == verdict and mine[given] == text:
                return self._show(connection, [example_id], now)[
                    0
                ]  # said before, under another key
            mine = self._expect_held(connection, task)
            if is_closed(task) or task["decision"] is not None:
                raise TaskConflictError(f"task '{example_id}' was settled without you")
            if not self._has_place(connection, task, mine, now):
                raise TaskConflictError(
                    f"the lease of task '{example_id}' has expired, and others have taken it"
                )
            values = {"state": verdict, given: text, "seconds": seconds, "answered": now}
            self._desk.assign(connection, example_id, self._annotator, **values)
            self._desk.settle(connection, example_id, now)
            return self._show(connection, [example_id], now)[0]

        try:
            return self._once(key, [verdict, example_id, text], act)
        except TaskConflictError:
            if verdict == "submitted":
                self._keep(example_id, text)
            raise

    def undo(self, key: str, example_id: str) -> Body:
        """Takes back one's own answer, whose text becomes the draft again, until the run has taken
        the label.
        """

        def act(connection: sa.Connection, now: float) -> Body:
            task = self._desk.task(connection, example_id)
            mine = self._desk.assignment(connection, example_id, self._annotator)
            if mine is None or mine["state"] == "leased":
                raise TaskConflictError(f"task '{example_id}' has no answer of yours to take back")
            if is_closed(task) or task["decision"] is not None:
                raise TaskConflictError(
                    f"the label of task '{example_id}' is settled, it cannot be taken back any more"
                )
            if (
                self._desk.count_busy(connection, example_id, self._annotator, now)
                >= task["wanted"]
            ):
                raise TaskConflictError(f"others work on task '{example_id}' now")
            draft = mine["text"] if mine["state"] == "submitted" else mine["draft"]
            values = {
                "state": "leased",
                "draft": draft,
                "until": now + self._lease,
                "text": None,
                "note": None,
            }
            self._desk.assign(connection, example_id, self._annotator, answered=None, **values)
            self._desk.settle(connection, example_id, now)
            return self._show(connection, [example_id], now)[0]

        return self._once(key, ["undo", example_id], act)

    @property
    def _key(self) -> dict[str, str]:
        return {"run": self._desk.run, "annotator": self._annotator}

    def _once(
        self, key: str, request: list[str], act: Callable[[sa.Connection, float], Body]
    ) -> Body:
        """What `act` answers, or what it answered to the same request before."""
        digest = hashlib.blake2b(encode_json(request).encode(), digest_size=16).hexdigest()
        mine = (
            (receipts.c.run == self._desk.run)
            & (receipts.c.annotator == self._annotator)
            & (receipts.c.key == key)
        )
        with self._journal.run_transaction(self._desk.run) as connection:
            known = connection.execute(
                sa.select(receipts.c.digest, receipts.c.answer).where(mine)
            ).one_or_none()
            if known is not None:
                if known.digest != digest:
                    raise TaskConflictError(f"Idempotency-Key {key!r} was used for another request")
                return dict(known.answer)
            now = self._journal.database.clock(connection)
            answer = act(connection, now)
            entry = self._key | {"key": key, "digest": digest, "answer": answer, "time": now}
            connection.execute(sa.insert(receipts).values(entry))
        return answer

    def _keep(self, example_id: str, text: str) -> None:
        """The text of an answer that came too late, as the draft."""
        with self._journal.run_transaction(self._desk.run) as connection:
            mine = self._desk.assignment(connection, example_id, self._annotator)
            if mine is not None and mine["state"] == "leased":
                self._desk.assign(connection, example_id, self._annotator, draft=text)

    def _list_held(self, connection: sa.Connection, now: float) -> list[str]:
        """Tasks that this person has begun and may go on with, in the order of the queue."""
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        mine = (assignments.c.annotator == self._annotator) & (assignments.c.state == "leased")
        query = sa.select(tasks, assignments.c.until).join(assignments, joined)
        query = query.where(self._desk.mine & mine & (tasks.c.state == "open")).order_by(
            tasks.c.round, tasks.c.rank
        )
        rows = connection.execute(query).mappings().all()
        return [row["example_id"] for row in rows if self._may_hold(connection, row, row, now)]

    def _find_open(self, connection: sa.Connection, now: float, count: int) -> list[str]:
        """Open tasks with a free place that this person has not seen."""
        here = assignments.c.run == self._desk.run
        busy = sa.select(assignments.c.example_id, sa.func.count().label("places")).where(
            here & is_busy(now)
        )
        taken = busy.group_by(assignments.c.example_id).subquery()
        seen = sa.select(assignments.c.example_id).where(
            here & (assignments.c.annotator == self._annotator)
        )
        query = sa.select(tasks.c.example_id).outerjoin(
            taken, taken.c.example_id == tasks.c.example_id
        )
        query = query.where(
            self._desk.mine & (tasks.c.state == "open") & tasks.c.example_id.not_in(seen)
        )
        query = query.where(sa.func.coalesce(taken.c.places, 0) < tasks.c.wanted)
        return list(
            connection.execute(query.order_by(tasks.c.round, tasks.c.rank).limit(count)).scalars()
        )

    def _expect_held(self, connection: sa.Connection, task: sa.RowMapping) -> sa.RowMapping:
        """This person's unanswered work on a task that is not closed."""
        mine = self._desk.assignment(connection, task["example_id"], self._annotator)
        if mine is None:
            raise TaskConflictError(
                f"task '{task['example_id']}' is not yours, expected one that you leased"
            )
        if mine["state"] != "leased":
            raise TaskConflictError(
                f"task '{task['example_id']}' was {mine['state']} by you; undo comes first"
            )
        return mine

    def _may_hold(self, connection: sa.Connection, task: Any, mine: Any, now: float) -> bool:
        """Whether this is still to be done, and by this person."""
        return task["state"] == "open" and self._has_place(connection, task, mine, now)

    def _has_place(self, connection: sa.Connection, task: Any, mine: Any, now: float) -> bool:
        """Whether the lease holds, or nobody else has taken the place since it expired."""
        if mine["until"] > now:
            return True
        return (
            self._desk.count_busy(connection, task["example_id"], self._annotator, now)
            < task["wanted"]
        )

    def _show(self, connection: sa.Connection, ids: Sequence[str], now: float) -> list[Body]:
        """Tasks as their annotator sees them: nothing of what others said."""
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        mine = assignments.c.annotator == self._annotator
        own = [assignments.c[name].label(f"own_{name}") for name in OWN]
        query = sa.select(tasks, *own).join(assignments, joined)
        query = query.where(self._desk.mine & mine & tasks.c.example_id.in_(list(ids)))
        rows = {row["example_id"]: row for row in connection.execute(query).mappings()}
        return [self._describe(rows[id_], now) for id_ in ids]

    def _describe(self, row: sa.RowMapping, now: float) -> Body:
        leased = row["own_state"] == "leased"
        begun = not leased or row["own_draft"] is not None
        blind = self._desk.config.drafts == "blind" and not begun and row["suggestion"] is not None
        return {
            "id": row["example_id"],
            "round": row["round"],
            "input": row["input"],
            "why": row["why"],
            "suggestion": None if blind or self._desk.config.drafts == "off" else row["suggestion"],
            "blind": blind,
            "state": row["own_state"],
            "closed": is_closed(row) or (leased and row["state"] != "open"),
            "draft": row["own_draft"],
            "text": row["own_text"],
            "note": row["own_note"],
            "revision": row["own_revision"],
            "lease_seconds": max(0.0, row["own_until"] - now) if leased else 0.0,
        }


OWN = ("state", "draft", "text", "note", "revision", "until")
