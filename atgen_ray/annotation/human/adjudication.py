"""What only an admin can settle: answers that disagree, and tasks that somebody flagged."""

from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import compare_texts
from atgen_ray.annotation.human.task_store import TaskConflictError, TaskStore, open_task_store
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, tasks

Decision = Literal["label", "drop", "reopen"]
PASSED = ("flagged", "skipped")  # by somebody, who left the task to others


def list_disputes(journal: Journal, run: str, limit: int = 50) -> list[dict[str, Any]]:
    """Tasks that wait for a decision, and then skipped ones that others may still label; with all
    answers side by side.

    Both are in the order of the queue; the `state` of the first is disputed, of the others open.
    Each answer has its `similarity` to the suggestion (exact, chrf, edit), or None without one;
    each task the mean edit similarity of its answers (`agreement`, None where somebody flagged it,
    or where it was skipped).
    """
    desk = open_task_store(journal, run)
    query = (
        sa.select(tasks)
        .where(_decidable(desk))
        .order_by(tasks.c.state, tasks.c.round, tasks.c.rank)
    )
    with journal.database.reading() as connection:
        rows = connection.execute(query.limit(limit)).mappings().all()
        answers = desk.answers(connection, [row["example_id"] for row in rows])
        agreed = {row["example_id"]: desk.resolve(connection, row).agreement for row in rows}
    shown = ("state", "round", "input", "why", "suggestion")
    return [
        {"id": row["example_id"], "agreement": agreed[row["example_id"]]}
        | {name: row[name] for name in shown}
        | {
            "answers": [
                _describe(answer, row["suggestion"]) for answer in answers[row["example_id"]]
            ]
        }
        for row in rows
    ]


def count_disputes(journal: Journal, run: str) -> int:
    """How many tasks `list_disputes` has."""
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
    """Settles a task with a label, or drops it, or gives a flagged or skipped one back to
    everybody; the task's state.

    Raises:
        TaskUnknownError: there is no such run or task.
        TaskConflictError: it is neither in dispute nor skipped, or was decided otherwise, or is to
            be given back although nobody flagged or skipped it.
    """
    desk = open_task_store(journal, run)
    decision = {"verdict": verdict, "text": text, "comment": comment, "by": by}
    with journal.run_transaction(run) as connection:
        task = desk.task(connection, example_id)
        if task["decision"] == decision:
            return str(task["state"])  # said before
        here = desk.mine & (tasks.c.example_id == example_id)
        if (
            connection.execute(sa.select(tasks.c.example_id).where(here & _decidable(desk))).first()
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
        return desk.settle(connection, example_id, now)


def _decidable(desk: TaskStore) -> sa.ColumnElement[bool]:
    """Tasks that an admin may settle: those in dispute, and those that somebody skipped and nobody
    has settled.
    """
    skipped = sa.select(assignments.c.example_id).where(
        (assignments.c.run == desk.run) & (assignments.c.state == "skipped")
    )
    return desk.mine & (
        (tasks.c.state == "disputed")
        | ((tasks.c.state == "open") & tasks.c.example_id.in_(skipped))
    )


def _describe(answer: sa.RowMapping, suggestion: dict[str, Any] | None) -> dict[str, Any]:
    names = ("annotator", "state", "text", "note", "seconds")
    compared = (
        compare_texts(answer["text"], suggestion["text"]) if suggestion and answer["text"] else None
    )
    similarity = compared and {
        "exact": compared.exact,
        "chrf": compared.chrf,
        "edit": compared.edit,
    }
    return {name: answer[name] for name in names} | {"similarity": similarity}
