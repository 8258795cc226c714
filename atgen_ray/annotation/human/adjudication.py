"""Adjudication by an admin: tasks whose answers disagree, and tasks that somebody flagged or
skipped.
"""

from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import compare_texts
from atgen_ray.annotation.human.task_store import TaskConflictError, TaskStore, open_task_store
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, tasks

Decision = Literal["label", "drop", "reopen"]
PASSED = ("flagged", "skipped")  # states of an assignment whose person left the task to others


def list_disputes(journal: Journal, run: str, limit: int = 50) -> list[dict[str, Any]]:
    """Return the tasks that wait for a decision, then skipped ones that others may still label,
    with all answers side by side.

    Both are in the order of the queue; the `state` of the first is disputed, of the others open.
    Each answer has its `similarity` to the suggestion (exact, chrf, edit), or None without one;
    each task the mean edit similarity of its answers (`agreement`, None where somebody flagged it,
    or where it was skipped).
    """
    task_store = open_task_store(journal, run)
    query = (
        sa.select(tasks)
        .where(_decidable(task_store))
        .order_by(tasks.c.state, tasks.c.round, tasks.c.rank)
    )
    with journal.database.reading() as connection:
        rows = connection.execute(query.limit(limit)).mappings().all()
        answers = task_store.answers(connection, [row["example_id"] for row in rows])
        agreed = {row["example_id"]: task_store.resolve(connection, row).agreement for row in rows}
    return [
        {
            "id": row["example_id"],
            "agreement": agreed[row["example_id"]],
            "state": row["state"],
            "round": row["round"],
            "input": row["input"],
            "why": row["why"],
            "suggestion": row["suggestion"],
            "answers": [
                _describe(answer, row["suggestion"]) for answer in answers[row["example_id"]]
            ],
        }
        for row in rows
    ]


def count_disputes(journal: Journal, run: str) -> int:
    """Return how many tasks `list_disputes` has."""
    query = sa.select(sa.func.count()).where(_decidable(open_task_store(journal, run)))
    with journal.database.reading() as connection:
        return int(connection.execute(query).scalar_one())


def decide(
    journal: Journal,
    run: str,
    example_id: str,
    by: str,
    verdict: Decision,
    text: str = "",
    comment: str = "",
) -> str:
    """Label a task, drop it, or reopen a flagged or skipped one for everybody; return the task's
    new state.

    Raises:
        TaskUnknownError: there is no such run or task.
        TaskConflictError: it is neither in dispute nor skipped, or was decided otherwise, or is to
            be given back although nobody flagged or skipped it.
    """
    task_store = open_task_store(journal, run)
    decision = {"verdict": verdict, "text": text, "comment": comment, "by": by}
    with journal.run_transaction(run) as connection:
        task = task_store.task(connection, example_id)
        if task["decision"] == decision:
            return str(task["state"])  # the same decision was made before
        here = task_store.mine & (tasks.c.example_id == example_id)
        if (
            connection.execute(
                sa.select(tasks.c.example_id).where(here & _decidable(task_store))
            ).first()
            is None
        ):
            raise TaskConflictError(
                f"task '{example_id}' is {task['state']}, expected one in dispute or skipped"
            )
        now = journal.database.clock(connection)
        if verdict == "reopen":
            passed = (assignments.c.run == run) & (assignments.c.example_id == example_id)
            passed &= assignments.c.state.in_(PASSED)
            freed = (
                sa.update(assignments)
                .where(passed)
                .values(state="leased", until=now, answered=None, note=None)
            )
            if not connection.execute(freed).rowcount:
                raise TaskConflictError(
                    f"task '{example_id}' was neither flagged nor skipped, expected a label, or "
                    f"to drop it"
                )
        else:
            connection.execute(sa.update(tasks).where(here).values(decision=decision))
        return task_store.settle(connection, example_id, now)


def _decidable(task_store: TaskStore) -> sa.ColumnElement[bool]:
    """Return the condition for tasks that an admin may decide: disputed ones, and unsettled ones
    that somebody skipped.
    """
    skipped = sa.select(assignments.c.example_id).where(
        (assignments.c.run == task_store.run) & (assignments.c.state == "skipped")
    )
    return task_store.mine & (
        (tasks.c.state == "disputed")
        | ((tasks.c.state == "open") & tasks.c.example_id.in_(skipped))
    )


def _describe(answer: sa.RowMapping, suggestion: dict[str, Any] | None) -> dict[str, Any]:
    """Return an answer with its similarity to the suggestion."""
    similarity = None
    if suggestion and answer["text"]:
        compared = compare_texts(answer["text"], suggestion["text"])
        similarity = {"exact": compared.exact, "chrf": compared.chrf, "edit": compared.edit}
    return {
        "annotator": answer["annotator"],
        "state": answer["state"],
        "text": answer["text"],
        "note": answer["note"],
        "seconds": answer["seconds"],
        "similarity": similarity,
    }
