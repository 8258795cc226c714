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
from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.guidelines import read_version
from atgen_ray.annotation.human.draft_experiment import choose_drafts
from atgen_ray.annotation.human.gold import GoldMixer
from atgen_ray.annotation.human.open_tasks import OpenTasks
from atgen_ray.annotation.human.run_labels import enter_revision
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskStore,
    TaskUnknownError,
    find_last_collections,
    is_closed,
    is_settled,
    open_task_store,
)
from atgen_ray.core.hashing import hash_text
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, receipts, revisions, tasks

Verdict = Literal["submitted", "skipped", "flagged"]
AT_ONCE = 20  # most leases of one person
HISTORY = 200  # how many of one person's latest tasks are shown again
PREPARED = 120.0  # seconds for which a task is kept that nobody has opened yet
RECEIPT_SECONDS = 86_400.0  # for so long a request may be repeated
RECEIPTS = 5_000  # most of one person in one run
Body = dict[str, Any]


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
        self._lease = self._task_store.config.lease_minutes * 60

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
                    self._enter(connection, id_, now)
                if place < max(1, count - ahead):
                    self._take_in_hand(connection, id_, now)
                else:
                    self._keep_prepared(connection, id_, now)
            return self._show(connection, chosen, now)

    def take(self, example_id: str) -> Body:
        """Lease this one task, or renew the lease on it."""
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            task = self._task_store.task(connection, example_id)
            mine = self._task_store.assignment(connection, example_id, self._annotator)
            if mine is not None:
                self._expect_held(connection, task)
            if task["state"] != "open":
                raise TaskConflictError(f"task '{example_id}' is {task['state']}, expected open")
            if mine is None or mine["until"] <= now:
                if not self._open.is_for_me(connection, example_id):
                    raise TaskConflictError(f"task '{example_id}' is kept for other people")
                if not self._make_place(connection, task, now):
                    raise TaskConflictError(f"others work on task '{example_id}' now")
            if mine is None:
                self._enter(connection, example_id, now)
            self._take_in_hand(connection, example_id, now)
            return self._show(connection, [example_id], now)[0]

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
            return self._show(connection, ids, now)

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
            return self._show(connection, [*ids, *held], now)

    def save_draft(self, example_id: str, text: str, revision: int) -> Body:
        """Store what was typed so far, unless a later `revision` is stored already, and renew the
        lease.
        """
        with self._journal.run_transaction(self._task_store.run) as connection:
            now = self._journal.database.clock(connection)
            task = self._task_store.task(connection, example_id)
            mine = self._expect_held(connection, task)
            values: Body = {}
            if revision >= mine["revision"]:
                values = {"draft": text, "revision": revision}
                self._task_store.assign(connection, example_id, self._annotator, **values)
            if self._may_hold(connection, task, mine, now):
                self._take_in_hand(connection, example_id, now)
            return self._show(connection, [example_id], now)[0]

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
                return self._show(connection, [example_id], now)[0]
            if mine is None:
                raise _not_yours(example_id)
            self._expect_unsettled(connection, task, mine)
            if not self._has_place(connection, task, mine, now):
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
            return self._show(connection, [example_id], now)[0]

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
            self._expect_unsettled(connection, task, mine)
            if not self._has_place(connection, task, mine, now):
                raise TaskConflictError(f"others work on task '{example_id}' now")
            # The submitted text is newer than the draft; a skip or a flag has no text.
            submitted = mine["state"] == "submitted"
            before = mine["text"] if submitted else mine["note"]
            self._record(connection, example_id, now, "withdrawn", before, None)
            values = {
                "state": "leased",
                "draft": before if submitted else mine["draft"],
                "until": now + self._lease,
                "text": sa.null(),
                "note": sa.null(),
            }
            self._task_store.assign(
                connection, example_id, self._annotator, answered=None, **values
            )
            self._task_store.settle(connection, example_id, now)
            return self._show(connection, [example_id], now)[0]

        return self._once(key, ["undo", example_id], {}, act)

    def _once(
        self,
        key: str,
        request: list[str],
        said: Body,
        act: Callable[[sa.Connection, float], Body],
    ) -> Body:
        """Return the answer of `act`, or the same one if the same request was made before.

        A receipt has neither the example nor what was `said`: both are known when it is asked for.
        """
        digest = hash_text(encode_json(request))
        person = (receipts.c.run == self._task_store.run) & (
            receipts.c.annotator == self._annotator
        )
        with self._journal.run_transaction(self._task_store.run) as connection:
            known = connection.execute(
                sa.select(receipts.c.digest, receipts.c.answer).where(
                    person & (receipts.c.key == key)
                )
            ).one_or_none()
            now = self._journal.database.clock(connection)
            if known is not None:
                if known.digest != digest:
                    raise TaskConflictError(f"Idempotency-Key {key!r} was used for another request")
                shown = self._show(connection, [request[1]], now)[0]
                return shown | {"text": None, "note": None} | said | dict(known.answer)
            # The answer is stored in the transaction of the change, so that neither exists alone.
            answer = act(connection, now)
            entry = {
                "run": self._task_store.run,
                "annotator": self._annotator,
                "key": key,
                "digest": digest,
                "answer": {name: answer[name] for name in RECEIPT},
                "time": now,
            }
            connection.execute(sa.insert(receipts).values(entry))
            newest = sa.select(receipts.c.time).where(person).order_by(receipts.c.time.desc())
            last = connection.execute(newest.offset(RECEIPTS).limit(1)).scalar_one_or_none()
            oldest = max(now - RECEIPT_SECONDS, last or 0.0)
            connection.execute(sa.delete(receipts).where(person & (receipts.c.time <= oldest)))
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

    def _enter(self, connection: sa.Connection, example_id: str, now: float) -> None:
        """Enter a lease that begins now."""
        row = {
            "run": self._task_store.run,
            "annotator": self._annotator,
            "example_id": example_id,
            "leased": now,
            "until": now,
            "state": "leased",
            "revision": 0,
        }
        connection.execute(sa.insert(assignments).values(row))

    def _take_in_hand(self, connection: sa.Connection, example_id: str, now: float) -> None:
        opened = sa.func.coalesce(assignments.c.opened, now)
        until = now + self._lease
        self._task_store.assign(connection, example_id, self._annotator, until=until, opened=opened)

    def _keep_prepared(self, connection: sa.Connection, example_id: str, now: float) -> None:
        mine = self._task_store.assignment(connection, example_id, self._annotator)
        until = max(now + min(PREPARED, self._lease), mine["until"] if mine else 0.0)
        self._task_store.assign(connection, example_id, self._annotator, until=until)

    def _expect_held(self, connection: sa.Connection, task: sa.RowMapping) -> sa.RowMapping:
        """Return this person's unanswered assignment. Raise TaskConflictError where there is
        none.
        """
        mine = self._task_store.assignment(connection, task["example_id"], self._annotator)
        if mine is None:
            raise _not_yours(task["example_id"])
        if mine["state"] != "leased":
            raise TaskConflictError(f"task '{task['example_id']}' was {mine['state']} by you")
        return mine

    def _expect_unsettled(
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

    def _may_hold(self, connection: sa.Connection, task: Any, mine: Any, now: float) -> bool:
        """Return whether the task is still to be done, and by this person."""
        return task["state"] == "open" and self._has_place(connection, task, mine, now)

    def _has_place(self, connection: sa.Connection, task: Any, mine: Any, now: float) -> bool:
        """Return whether the answer or the lease is valid, or nobody else has taken the place since
        it expired.
        """
        if mine.get("state") == "submitted" or mine["until"] > now:
            return True
        others = self._task_store.count_busy(connection, task["example_id"], self._annotator, now)
        return others < task["wanted"]

    def _make_place(self, connection: sa.Connection, task: sa.RowMapping, now: float) -> bool:
        """Return whether there is a place at the task, perhaps one that was only prepared for
        somebody else, who loses it.
        """
        id_ = task["example_id"]
        if self._task_store.count_busy(connection, id_, self._annotator, now) < task["wanted"]:
            return True
        return self._open.drop_prepared(connection, id_, now)

    def _show(self, connection: sa.Connection, ids: Sequence[str], now: float) -> list[Body]:
        """Return tasks as their annotator sees them: without the answers of others."""
        joined = (
            (tasks.c.run == assignments.c.run)
            & (tasks.c.example_id == assignments.c.example_id)
            & (assignments.c.annotator == self._annotator)
        )
        own = [assignments.c[name].label(f"own_{name}") for name in OWN]
        query = sa.select(tasks, *own, self._find_opener()).outerjoin(assignments, joined)
        query = query.where(self._task_store.mine & tasks.c.example_id.in_(list(ids)))
        rows = {row["example_id"]: row for row in connection.execute(query).mappings()}
        collected = find_last_collections(connection, self._task_store.run)
        return [self._describe(rows[id_], now, collected) for id_ in ids]

    def _find_opener(self) -> sa.Label[str]:
        """Return the column of who sent this person's answer to a task back last."""
        mine = (
            (revisions.c.run == tasks.c.run)
            & (revisions.c.example_id == tasks.c.example_id)
            & (revisions.c.annotator == self._annotator)
            & (revisions.c.kind == "reopened")
        )
        last = sa.select(revisions.c.by).where(mine).order_by(revisions.c.id.desc()).limit(1)
        return last.correlate(tasks).scalar_subquery().label("opener")

    def _describe(
        self, row: sa.RowMapping, now: float, collected: Sequence[tuple[int, float]]
    ) -> Body:
        """Return one task with this person's work on it."""
        state = row["own_state"] or "open"  # open: looked at
        leased = state in ("leased", "open")
        # With blind drafts a person sees the suggestion only after typing something.
        begun = not leased or row["own_draft"] is not None
        store = self._task_store
        drafts = choose_drafts(store.config.drafts, store.run, row["example_id"])
        blind = drafts == "blind" and not begun and row["suggestion"] is not None
        final = row["decision"] is not None or is_settled(row, collected)
        if row["gold"] is not None:
            round, final = self._gold.imitate(row["own_answered"], final, collected)
        return {
            "id": row["example_id"],
            "round": row["round"] if row["gold"] is None else round,
            "input": row["input"],
            "why": row["why"],
            "suggestion": None if blind or drafts == "off" else row["suggestion"],
            "blind": blind,
            "state": state,
            "closed": row["state"] != "open" if leased else final,
            "draft": row["own_draft"],
            "text": row["own_text"],
            "note": row["own_note"],
            "sent_back_by": row["opener"] if state == "leased" and row["own_note"] else None,
            "revision": row["own_revision"] or 0,
            "lease_seconds": max(0.0, row["own_until"] - now) if state == "leased" else 0.0,
        }


OWN = ("state", "draft", "text", "note", "revision", "until", "answered")
RECEIPT = ("state", "closed", "revision", "lease_seconds")


def _not_yours(example_id: str) -> TaskConflictError:
    return TaskConflictError(f"task '{example_id}' is not yours, expected one that you leased")
