"""What only an admin can settle: answers that disagree, and tasks that somebody flagged."""

from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.people.agreement import compare_texts
from atgen_ray.annotation.people.desk import TaskConflict, is_closed, open_desk
from atgen_ray.journal import Journal
from atgen_ray.tables import assignments, tasks

Decision = Literal["label", "drop", "reopen"]


def list_disputes(journal: Journal, run: str, limit: int = 50) -> list[dict[str, Any]]:
    """Tasks that wait for a decision, in the order of the queue, with all answers side by side.

    Each answer has its `similarity` to the suggestion (exact, chrf, edit), or None without one; each task the mean edit
    similarity of its answers (`agreement`, None where somebody flagged it).
    """
    desk = open_desk(journal, run)
    query = sa.select(tasks).where(desk.mine & (tasks.c.state == "disputed")).order_by(tasks.c.round, tasks.c.rank)
    with journal.database.reading() as connection:
        rows = connection.execute(query.limit(limit)).mappings().all()
        answers = desk.answers(connection, [row["example_id"] for row in rows])
        agreed = {row["example_id"]: desk.resolve(connection, row).agreement for row in rows}
    shown = ("round", "input", "why", "suggestion")
    return [
        {"id": row["example_id"], "agreement": agreed[row["example_id"]]}
        | {name: row[name] for name in shown}
        | {"answers": [_describe(answer, row["suggestion"]) for answer in answers[row["example_id"]]]}
        for row in rows
    ]


def decide(
    journal: Journal, run: str, example_id: str, by: str, verdict: Decision, text: str = "", comment: str = ""
) -> str:
    """Settles a task with a label, or drops it, or gives a flagged one back to its annotators; the task's state.

    Raises:
        TaskUnknown: there is no such run or task.
        TaskConflict: it is not in dispute, or was decided otherwise, or nobody flagged it.
    """
    desk = open_desk(journal, run)
    decision = {"verdict": verdict, "text": text, "comment": comment, "by": by}
    with journal.shared(run) as connection:
        task = desk.task(connection, example_id)
        if task["decision"] == decision:
            return str(task["state"])  # said before
        if is_closed(task) or task["state"] != "disputed":
            raise TaskConflict(f"task '{example_id}' is {task['state']}, expected one in dispute")
        now = journal.database.clock(connection)
        here = desk.mine & (tasks.c.example_id == example_id)
        if verdict == "reopen":
            flagged = (assignments.c.run == run) & (assignments.c.example_id == example_id)
            flagged &= assignments.c.state == "flagged"
            freed = sa.update(assignments).where(flagged).values(state="leased", until=now, answered=None, note=None)
            if not connection.execute(freed).rowcount:
                raise TaskConflict(f"task '{example_id}' was not flagged, expected a label, or to drop it")
        else:
            connection.execute(sa.update(tasks).where(here).values(decision=decision))
        return desk.settle(connection, example_id, now)


def _describe(answer: sa.RowMapping, suggestion: dict[str, Any] | None) -> dict[str, Any]:
    names = ("annotator", "state", "text", "note", "seconds")
    compared = compare_texts(answer["text"], suggestion["text"]) if suggestion and answer["text"] else None
    similarity = compared and {"exact": compared.exact, "chrf": compared.chrf, "edit": compared.edit}
    return {name: answer[name] for name in names} | {"similarity": similarity}
