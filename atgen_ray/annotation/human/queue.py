"""Queue of tasks for people: leases, drafts, answers and undo, each one transaction under the lock
of the run.

All state is in the database, so any replica can answer any request. A request that changes
something carries an idempotency key chosen by its sender; a repeated request has the same answer as
the first and counts once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.human.gold import GoldMixer, is_gold
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskStore,
    is_busy,
    is_closed,
    open_task_store,
)
from atgen_ray.core.hashing import hash_text
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, receipts, tasks

Verdict = Literal["submitted", "skipped", "flagged"]
AT_ONCE = 50  # most leases of one person
HISTORY = 200  # how many of one person's latest tasks are shown again
Body = dict[str, Any]


class Queue:
    """The tasks of one run, seen by one person. Every method may be called concurrently on any
    replica.

    All raise TaskUnknownError for a run or task that is not there, and TaskConflictError where
    others were quicker.
    """

    def __init__(self, journal: Journal, run: str, annotator: str) -> None:
        self._journal = journal
        self._annotator = annotator
        self._task_store: TaskStore = open_task_store(journal, run)
        self._gold = GoldMixer(run, annotator, self._task_store.config)
        self._lease = self._task_store.config.lease_minutes * 60

    def lease(self, count: int = 1, exclude: Sequence[str] = ()) -> list[Body]:
        """Lease up to `count` tasks that are not in `exclude`: first those held already, then open
        ones.
        """
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            held = self._list_held(connection, now)
            chosen = [id_ for id_ in held if id_ not in exclude][:count]
            left = min(count - len(chosen), AT_ONCE - len(held))
            if left > 0:
                fresh = self._find_open(connection, now, left)
                fresh = self._gold.choose(connection, fresh, left)
                rows = [
                    {
                        "run": self._task_store.run,
                        "annotator": self._annotator,
                        "example_id": id_,
                        "leased": now,
                        "until": now,
                        "state": "leased",
                        "revision": 0,
                    }
                    for id_ in fresh
                ]
                if rows:
                    connection.execute(sa.insert(assignments), rows)
                chosen += fresh
            for id_ in chosen:
                self._task_store.assign(connection, id_, self._annotator, until=now + self._lease)
            return self._show(connection, chosen, now)

    def history(self) -> list[Body]:
        """Return the person's latest tasks, held or answered, the oldest first."""
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        query = sa.select(tasks.c.example_id).join(assignments, joined)
        query = query.where(self._task_store.mine & (assignments.c.annotator == self._annotator))
        query = query.order_by(
            assignments.c.leased.desc(), tasks.c.round.desc(), tasks.c.rank.desc()
        ).limit(HISTORY)
        with self._journal.database.reading() as connection:
            ids = list(connection.execute(query).scalars())[::-1]
            return self._show(connection, ids, self._journal.database.clock(connection))

    def save_draft(self, example_id: str, text: str, revision: int) -> Body:
        """Store what was typed so far, unless a later `revision` is stored already, and renew the
        lease.
        """
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            task = self._task_store.task(connection, example_id)
            mine = self._expect_held(connection, task)
            until = (
                now + self._lease if self._may_hold(connection, task, mine, now) else mine["until"]
            )
            values: Body = {"until": until}
            if revision >= mine["revision"]:
                values |= {"draft": text, "revision": revision}
            self._task_store.assign(connection, example_id, self._annotator, **values)
            return self._show(connection, [example_id], now)[0]

    def answer(
        self, key: str, example_id: str, verdict: Verdict, text: str, seconds: float | None = None
    ) -> Body:
        """Submit `text`, or skip or flag the task with `text` as the reason.

        An answer that comes too late is kept as the draft, so that nothing typed is lost.
        """

        def act(connection: sa.Connection, now: float) -> Body:
            task = self._task_store.task(connection, example_id)
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            given = "text" if verdict == "submitted" else "note"
            if mine is not None and mine["state"] == verdict and mine[given] == text:
                # The same answer was given before, under another key.
                return self._show(connection, [example_id], now)[0]
            mine = self._expect_held(connection, task)
            if is_closed(task) or task["decision"] is not None:
                raise TaskConflictError(f"task '{example_id}' was settled without you")
            if not self._has_place(connection, task, mine, now):
                raise TaskConflictError(
                    f"the lease of task '{example_id}' has expired, and others have taken it"
                )
            values = {"state": verdict, given: text, "seconds": seconds, "answered": now}
            self._task_store.assign(connection, example_id, self._annotator, **values)
            self._task_store.settle(connection, example_id, now)
            return self._show(connection, [example_id], now)[0]

        try:
            return self._once(key, [verdict, example_id, text], act)
        except TaskConflictError:
            if verdict == "submitted":
                self._keep(example_id, text)
            raise

    def undo(self, key: str, example_id: str) -> Body:
        """Withdraw one's own answer until the run has taken the label; its text becomes the draft
        again.
        """

        def act(connection: sa.Connection, now: float) -> Body:
            task = self._task_store.task(connection, example_id)
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            if mine is None or mine["state"] == "leased":
                raise TaskConflictError(f"task '{example_id}' has no answer of yours to take back")
            if is_closed(task) or task["decision"] is not None:
                raise TaskConflictError(
                    f"the label of task '{example_id}' is settled, it cannot be taken back any more"
                )
            if (
                self._task_store.count_busy(connection, example_id, self._annotator, now)
                >= task["wanted"]
            ):
                raise TaskConflictError(f"others work on task '{example_id}' now")
            # The submitted text is newer than the draft; a skip or a flag has no text.
            draft = mine["text"] if mine["state"] == "submitted" else mine["draft"]
            values = {
                "state": "leased",
                "draft": draft,
                "until": now + self._lease,
                "text": None,
                "note": None,
            }
            self._task_store.assign(
                connection, example_id, self._annotator, answered=None, **values
            )
            self._task_store.settle(connection, example_id, now)
            return self._show(connection, [example_id], now)[0]

        return self._once(key, ["undo", example_id], act)

    def _once(
        self, key: str, request: list[str], act: Callable[[sa.Connection, float], Body]
    ) -> Body:
        """Return the answer of `act`, or the stored answer if the same request was made before."""
        digest = hash_text(encode_json(request))
        mine = (
            (receipts.c.run == self._task_store.run)
            & (receipts.c.annotator == self._annotator)
            & (receipts.c.key == key)
        )
        with self._journal.run_transaction(self._task_store.run) as connection:
            known = connection.execute(
                sa.select(receipts.c.digest, receipts.c.answer).where(mine)
            ).one_or_none()
            if known is not None:
                if known.digest != digest:
                    raise TaskConflictError(f"Idempotency-Key {key!r} was used for another request")
                return dict(known.answer)
            # The answer is stored in the transaction of the change, so that neither exists alone.
            now = self._journal.database.clock(connection)
            answer = act(connection, now)
            entry = {
                "run": self._task_store.run,
                "annotator": self._annotator,
                "key": key,
                "digest": digest,
                "answer": answer,
                "time": now,
            }
            connection.execute(sa.insert(receipts).values(entry))
        return answer

    def _keep(self, example_id: str, text: str) -> None:
        """Store the text of an answer that came too late as the draft."""
        with self._journal.run_transaction(self._task_store.run) as connection:
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            if mine is not None and mine["state"] == "leased":
                self._task_store.assign(connection, example_id, self._annotator, draft=text)

    def _list_held(self, connection: sa.Connection, now: float) -> list[str]:
        """Return the tasks that this person has leased and may continue, in the order of the
        queue.
        """
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        mine = (assignments.c.annotator == self._annotator) & (assignments.c.state == "leased")
        query = sa.select(tasks, assignments.c.until).join(assignments, joined)
        query = query.where(self._task_store.mine & mine & (tasks.c.state == "open")).order_by(
            tasks.c.round, tasks.c.rank
        )
        rows = connection.execute(query).mappings().all()
        return [row["example_id"] for row in rows if self._may_hold(connection, row, row, now)]

    def _find_open(self, connection: sa.Connection, now: float, count: int) -> list[str]:
        """Return open tasks that lack an annotator and that this person has not seen."""
        here = assignments.c.run == self._task_store.run
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
            self._task_store.mine
            & (tasks.c.state == "open")
            & ~is_gold()
            & tasks.c.example_id.not_in(seen)
        )
        query = query.where(sa.func.coalesce(taken.c.places, 0) < tasks.c.wanted)
        return list(
            connection.execute(query.order_by(tasks.c.round, tasks.c.rank).limit(count)).scalars()
        )

    def _expect_held(self, connection: sa.Connection, task: sa.RowMapping) -> sa.RowMapping:
        """Return this person's unanswered assignment. Raise TaskConflictError where there is
        none.
        """
        mine = self._task_store.assignment(connection, task["example_id"], self._annotator)
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
        """Return whether the task is still to be done, and by this person."""
        return task["state"] == "open" and self._has_place(connection, task, mine, now)

    def _has_place(self, connection: sa.Connection, task: Any, mine: Any, now: float) -> bool:
        """Return whether the lease is valid, or nobody else has taken the place since it
        expired.
        """
        if mine["until"] > now:
            return True
        return (
            self._task_store.count_busy(connection, task["example_id"], self._annotator, now)
            < task["wanted"]
        )

    def _show(self, connection: sa.Connection, ids: Sequence[str], now: float) -> list[Body]:
        """Return tasks as their annotator sees them: without the answers of others."""
        joined = (tasks.c.run == assignments.c.run) & (
            tasks.c.example_id == assignments.c.example_id
        )
        mine = assignments.c.annotator == self._annotator
        own = [assignments.c[name].label(f"own_{name}") for name in OWN]
        query = sa.select(tasks, *own).join(assignments, joined)
        query = query.where(self._task_store.mine & mine & tasks.c.example_id.in_(list(ids)))
        rows = {row["example_id"]: row for row in connection.execute(query).mappings()}
        return [self._describe(rows[id_], now) for id_ in ids]

    def _describe(self, row: sa.RowMapping, now: float) -> Body:
        """Return one task with this person's work on it."""
        leased = row["own_state"] == "leased"
        # With blind drafts a person sees the suggestion only after typing something.
        begun = not leased or row["own_draft"] is not None
        blind = (
            self._task_store.config.drafts == "blind"
            and not begun
            and row["suggestion"] is not None
        )
        return {
            "id": row["example_id"],
            "round": row["round"],
            "input": row["input"],
            "why": row["why"],
            "suggestion": None
            if blind or self._task_store.config.drafts == "off"
            else row["suggestion"],
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
