"""Queue of tasks for people: leases, drafts, answers and undo, each one transaction under the lock
of the run.

All state is in the database, so any replica can answer any request. A request that changes
something carries an idempotency key chosen by its sender; a repeated request has the same answer as
the first and counts once.

A task is in hand, for the lease of the run, once its person has opened it; one that is only
prepared, so that it is there when the task before is done, is kept for `PREPARED` seconds, and
somebody who would have none takes it. To look at tasks leases none of them.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import sqlalchemy as sa

from atgen_ray.annotation.guidelines import read_version
from atgen_ray.annotation.human.gold import GoldMixer
from atgen_ray.annotation.human.open_tasks import OpenTasks
from atgen_ray.annotation.human.own_assignments import OwnAssignments, not_yours
from atgen_ray.annotation.human.receipts import Receipts
from atgen_ray.annotation.human.run_labels import enter_revision
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskStore,
    TaskUnknownError,
    open_task_store,
)
from atgen_ray.annotation.human.task_view import Body, TaskView
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments

Verdict = Literal["submitted", "skipped", "flagged"]
AT_ONCE = 20  # most leases of one person
HISTORY = 200  # how many of one person's latest tasks are shown again


class Queue:
    """The tasks of one run, seen by one person, who may belong to groups. Every method may be
    called concurrently on any replica.

    All raise TaskUnknownError for a run or task that is not there, and TaskConflictError where
    others were quicker.
    """

    def __init__(
        self, journal: Journal, run: str, annotator: str, groups: Sequence[str] = ()
    ) -> None:
        self._journal = journal
        self._annotator = annotator
        self._task_store: TaskStore = open_task_store(journal, run)
        self._open = OpenTasks(run, annotator, groups)
        self._gold = GoldMixer(run, annotator, self._task_store.config)
        self._view = TaskView(self._task_store, self._gold, annotator)
        self._receipts = Receipts(run, annotator)
        self._own = OwnAssignments(self._task_store, self._open, self._gold, annotator)

    def lease(
        self, count: int = 1, exclude: Sequence[str] = (), ahead: int = 0, hand: str | None = None
    ) -> list[Body]:
        """Lease up to `count` tasks that are not in `exclude`: first `hand` if it is held, then
        those held already, then open ones. The last `ahead` places are prepared only.

        Somebody for whom nothing is open gets a task that was prepared for another person.
        """
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            self._open.forget_prepared(connection, now)
            held = self._open.list_held(connection, now, AT_ONCE)
            mine = sorted((id_ for id_ in held if id_ not in exclude), key=lambda id_: id_ != hand)
            chosen = mine[:count]
            left = min(count - len(chosen), AT_ONCE - len(held))
            if left > 0:
                fresh = self._open.find(connection, now, left)
                chosen += self._gold.choose(connection, fresh, left)
            if not chosen and self._gold.lets_in(connection):
                chosen = self._open.claim_prepared(connection, now)
            for place, id_ in enumerate(chosen):
                if id_ not in held:
                    self._own.enter(connection, id_, now)
                if place < max(1, count - ahead):
                    self._own.take_in_hand(connection, id_, now)
                else:
                    self._own.keep_prepared(connection, id_, now)
            return self._view.show(connection, chosen, now)

    def take(self, example_id: str) -> Body:
        """Lease this one task, or renew the lease on it."""
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            task = self._task_store.task(connection, example_id)
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            if mine is not None:
                self._own.expect_held(connection, task)
            if task["state"] != "open":
                raise TaskConflictError(f"task '{example_id}' is {task['state']}, expected open")
            if mine is None or mine["until"] <= now:
                if not self._open.is_for_me(connection, example_id):
                    raise TaskConflictError(f"task '{example_id}' is kept for other people")
                if not self._own.make_place(connection, task, now):
                    raise TaskConflictError(f"others work on task '{example_id}' now")
            if mine is None:
                self._own.enter(connection, example_id, now)
            self._own.take_in_hand(connection, example_id, now)
            return self._view.show(connection, [example_id], now)[0]

    def release(self, example_ids: Sequence[str]) -> int:
        """Give the person's leases on these tasks up, and return how many there were. What was
        typed stays.
        """
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            mine = self._open.leases & assignments.c.example_id.in_(list(example_ids))
            freed = sa.update(assignments).where(mine & (assignments.c.until > now))
            count = connection.execute(freed.values(until=now)).rowcount
            self._open.forget_prepared(connection, now)
            return int(count)

    def look(self, after: str | None = None, count: int = 5) -> list[Body]:
        """Return open tasks that the person could take, in the order of the queue and behind the
        task `after`. None is leased.
        """
        with self._journal.database.reading() as connection:
            now = self._journal.database.clock(connection)
            start = None if after is None else self._task_store.task(connection, after)
            ids = self._open.find(connection, now, count, start)
            return self._view.show(connection, ids, now)

    def history(self, limit: int = HISTORY, before: str | None = None) -> list[Body]:
        """Return the person's latest tasks, the oldest first: those answered, and then those held.

        With `before`, those answered earlier than that task.
        """
        mine = (assignments.c.run == self._task_store.run) & (
            assignments.c.annotator == self._annotator
        )
        answered = mine & assignments.c.answered.is_not(None) & (assignments.c.state != "leased")
        with self._journal.database.reading() as connection:
            now = self._journal.database.clock(connection)
            held = [] if before else self._open.list_leases(connection, HISTORY)
            if before is not None:
                row = self._task_store.assignment(connection, before, self._annotator)
                if row is None or row["answered"] is None:
                    raise TaskUnknownError(f"task {before[:80]!r} has no answer of yours")
                answered &= assignments.c.answered < row["answered"]
            query = sa.select(assignments.c.example_id).where(answered)
            query = query.order_by(assignments.c.answered.desc()).limit(limit)
            ids = list(connection.execute(query).scalars())[::-1]
            return self._view.show(connection, [*ids, *held], now)

    def save_draft(self, example_id: str, text: str, revision: int) -> Body:
        """Store what was typed so far, unless a later `revision` is stored already, and renew the
        lease.
        """
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            task = self._task_store.task(connection, example_id)
            mine = self._own.expect_held(connection, task)
            values: Body = {}
            if revision >= mine["revision"]:
                values = {"draft": text, "revision": revision}
                self._task_store.assign(connection, example_id, self._annotator, **values)
            if self._own.may_hold(connection, task, mine, now):
                self._own.take_in_hand(connection, example_id, now)
            return self._view.show(connection, [example_id], now)[0]

    def answer(
        self,
        key: str,
        example_id: str,
        verdict: Verdict,
        text: str,
        seconds: float | None = None,
        guidelines: int | None = None,
    ) -> Body:
        """Submit `text`, or skip or flag the task with `text` as the reason. An own answer that the
        run has not trained on is replaced. `guidelines` is the version that the person had; None:
        the newest.

        An answer that comes too late is kept as the draft, so that nothing typed is lost.
        """
        given = "text" if verdict == "submitted" else "note"

        def act(connection: sa.Connection, now: float) -> Body:
            task = self._task_store.task(connection, example_id)
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            if mine is not None and mine["state"] == verdict and mine[given] == text:
                # The same answer was given before, under another key.
                return self._view.show(connection, [example_id], now)[0]
            if mine is None:
                raise not_yours(example_id)
            self._own.expect_unsettled(connection, task, mine)
            if not self._own.has_place(connection, task, mine, now):
                raise TaskConflictError(
                    f"the lease of task '{example_id}' has expired, and others have taken it"
                )
            if mine["state"] != "leased":
                before = mine["text"] if mine["state"] == "submitted" else mine["note"]
                self._record(connection, example_id, now, "edited", before, text)
            newest = read_version(connection, self._task_store.run)
            values = {
                "state": verdict,
                "seconds": seconds,
                "answered": now,
                "text": sa.null(),
                "note": sa.null(),
                "guidelines": min(guidelines or newest, newest),
                given: text,
            }
            if verdict == "submitted":
                values["draft"] = sa.null()  # the text of the answer is newer
            self._task_store.assign(connection, example_id, self._annotator, **values)
            self._task_store.settle(connection, example_id, now)
            return self._view.show(connection, [example_id], now)[0]

        try:
            return self._once(key, [verdict, example_id, text], {given: text}, act)
        except TaskConflictError:
            if verdict == "submitted":
                self._keep(example_id, text)
            raise

    def undo(self, key: str, example_id: str) -> Body:
        """Withdraw one's own answer until the run trains on the label; its text becomes the draft
        again.
        """

        def act(connection: sa.Connection, now: float) -> Body:
            task = self._task_store.task(connection, example_id)
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            if mine is None or mine["state"] == "leased":
                raise TaskConflictError(f"task '{example_id}' has no answer of yours to take back")
            self._own.expect_unsettled(connection, task, mine)
            if not self._own.has_place(connection, task, mine, now):
                raise TaskConflictError(f"others work on task '{example_id}' now")
            # The submitted text is newer than the draft; a skip or a flag has no text.
            submitted = mine["state"] == "submitted"
            before = mine["text"] if submitted else mine["note"]
            self._record(connection, example_id, now, "withdrawn", before, None)
            values = {
                "state": "leased",
                "draft": before if submitted else mine["draft"],
                "until": now + self._own.lease_seconds,
                "text": sa.null(),
                "note": sa.null(),
            }
            self._task_store.assign(
                connection, example_id, self._annotator, answered=None, **values
            )
            self._task_store.settle(connection, example_id, now)
            return self._view.show(connection, [example_id], now)[0]

        return self._once(key, ["undo", example_id], {}, act)

    def _once(
        self,
        key: str,
        request: list[str],
        said: Body,
        act: Callable[[sa.Connection, float], Body],
    ) -> Body:
        """Return the answer of `act`, or the same one if the same request was made before."""
        with self._journal.run_transaction(self._task_store.run) as connection:
            known = self._receipts.find(connection, key, request)
            now = self._journal.database.clock(connection)
            if known is not None:
                shown = self._view.show(connection, [request[1]], now)[0]
                return shown | {"text": None, "note": None} | said | known
            # The answer is stored in the transaction of the change, so that neither exists alone.
            answer = act(connection, now)
            self._receipts.enter(connection, key, request, answer, now)
        return answer

    def _record(
        self,
        connection: sa.Connection,
        example_id: str,
        now: float,
        kind: str,
        before: str | None,
        after: str | None,
    ) -> None:
        """Enter a change of the person's own answer."""
        enter_revision(
            connection,
            self._task_store.run,
            example_id,
            now,
            kind=kind,
            by=self._annotator,
            annotator=self._annotator,
            before=before,
            after=after,
        )

    def _keep(self, example_id: str, text: str) -> None:
        """Store the text of an answer that came too late as the draft."""
        with self._journal.run_transaction(self._task_store.run) as connection:
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            if mine is not None and mine["state"] == "leased":
                self._task_store.assign(connection, example_id, self._annotator, draft=text)
