"""Answers and labels that change after they were given: tasks opened again, corrections by an
admin, and the history of both.

Example:
    reopen_tasks(journal, "demo", ["e01"], by="root", reason="The outcome is missing.")
    correct_label(journal, "demo", "e02", by="root", text="It rained.", reason="A typing error.")
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.run_labels import enter_revision
from atgen_ray.annotation.human.task_store import TaskStore, TaskUnknownError, open_task_store
from atgen_ray.core.errors import UserError
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, revisions, tasks

PIECE = 500  # ids in one statement: databases limit the number of parameters


def reopen_tasks(
    journal: Journal,
    run: str,
    example_ids: Sequence[str],
    by: str,
    reason: str,
    whose: str | None = None,
) -> int:
    """Open tasks again, whatever their state, so that their annotators, or others, answer anew;
    return how many had an answer or a decision.

    With `whose` the answers of others stay. The annotators have their texts as drafts, beside the
    `reason`. A label that the run has taken stays until a new one replaces it. All is one
    transaction.

    Raises:
        TaskUnknownError: there is no such run, or one of the tasks does not exist; then none is
            opened.
    """
    task_store = open_task_store(journal, run)
    ids = list(dict.fromkeys(example_ids))
    count = 0
    with journal.run_transaction(run) as connection:
        now = journal.database.clock(connection)
        for start in range(0, len(ids), PIECE):
            piece = ids[start : start + PIECE]
            count += _reopen(connection, task_store, piece, by, reason, now, whose)
    return count


def correct_label(
    journal: Journal, run: str, example_id: str, by: str, text: str, reason: str
) -> str:
    """Make `text` the label of a task in any state, and return the new state of the task.

    A label that the run has taken is replaced in the same transaction, and costs nothing more. The
    same correction twice counts once.

    Raises:
        UserError: `text` is empty.
        TaskUnknownError: there is no such run or task.
    """
    if not text.strip():
        raise UserError("text is empty, expected the label")
    task_store = open_task_store(journal, run)
    decision = {"verdict": "label", "text": text, "comment": reason, "by": by}
    with journal.run_transaction(run) as connection:
        now = journal.database.clock(connection)
        task = task_store.task(connection, example_id)
        if task["decision"] == decision:
            return str(task["state"])
        before = task_store.resolve(connection, task)
        enter_revision(
            connection,
            run,
            example_id,
            now,
            kind="corrected",
            by=by,
            annotator=before.annotator or None,
            before=before.text if before.state == "answered" else None,
            after=text,
            reason=reason or None,
        )
        here = task_store.mine & (tasks.c.example_id == example_id)
        connection.execute(sa.update(tasks).where(here).values(decision=decision))
        return task_store.settle(connection, example_id, now)


def list_revisions(journal: Journal, run: str, example_id: str) -> list[dict[str, Any]]:
    """Return the changes of an example's answers and label, the oldest first: kind, by, annotator,
    before, after, reason, round, time.
    """
    names = ("kind", "by", "annotator", "before", "after", "reason", "round", "time")
    here = (revisions.c.run == run) & (revisions.c.example_id == example_id)
    query = sa.select(*(revisions.c[name] for name in names)).where(here).order_by(revisions.c.id)
    with journal.database.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _reopen(
    connection: sa.Connection,
    task_store: TaskStore,
    ids: Sequence[str],
    by: str,
    reason: str,
    now: float,
    whose: str | None,
) -> int:
    here = task_store.mine & tasks.c.example_id.in_(ids)
    query = sa.select(tasks.c.example_id, tasks.c.decision).where(here)
    decisions = {row.example_id: row.decision for row in connection.execute(query)}
    if missing := next((id_ for id_ in ids if id_ not in decisions), None):
        raise TaskUnknownError(f"run '{task_store.run}' has no task {missing[:80]!r}")
    answers = task_store.answers(connection, ids)
    if whose is not None:
        answers = {
            id_: [answer for answer in given if answer["annotator"] == whose]
            for id_, given in answers.items()
        }
    opened = [id_ for id_ in ids if answers[id_] or decisions[id_] is not None]
    given = [answer for id_ in opened for answer in answers[id_]]
    if given:
        # One statement for all of them: an update of each would hold the run's lock for seconds.
        mine = (
            (assignments.c.run == task_store.run)
            & assignments.c.example_id.in_(opened)
            & (assignments.c.state != "leased")
        )
        if whose is not None:
            mine &= assignments.c.annotator == whose
        submitted = assignments.c.state == "submitted"
        freed = {
            "state": "leased",
            "until": now,
            "answered": None,
            "text": sa.null(),
            "draft": sa.case((submitted, assignments.c.text), else_=assignments.c.draft),
            "note": reason or None,
        }
        connection.execute(sa.update(assignments).where(mine).values(freed))
    changes = [_describe_reopening(task_store.run, answer, by, reason, now) for answer in given]
    changes += [
        {
            "run": task_store.run,
            "example_id": id_,
            "kind": "reopened",
            "by": by,
            "annotator": decisions[id_]["by"],
            "before": decisions[id_].get("text") or None,
            "after": None,
            "reason": reason or None,
            "round": None,
            "time": now,
        }
        for id_ in opened
        if decisions[id_] is not None
    ]
    if changes:
        connection.execute(sa.insert(revisions), changes)
    if opened:
        again = sa.update(tasks).where(task_store.mine & tasks.c.example_id.in_(opened))
        connection.execute(again.values(state="open", decision=sa.null(), changed=now))
    return len(opened)


def _describe_reopening(
    run: str, answer: sa.RowMapping, by: str, reason: str, now: float
) -> dict[str, Any]:
    return {
        "run": run,
        "example_id": answer["example_id"],
        "kind": "reopened",
        "by": by,
        "annotator": answer["annotator"],
        "before": answer["text"] if answer["state"] == "submitted" else answer["note"],
        "after": None,
        "reason": reason or None,
        "round": None,
        "time": now,
    }
