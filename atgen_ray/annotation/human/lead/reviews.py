"""Reviews: an admin accepts an answer, corrects it, or sends it back to whoever gave it."""

from collections import Counter, defaultdict
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.human.revision import correct_label, reopen_tasks
from atgen_ray.annotation.human.task_store import TaskConflictError, open_task_store
from atgen_ray.core.errors import UserError
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import reviews

Verdict = Literal["accepted", "corrected", "returned"]


def review_answer(
    journal: Journal,
    run: str,
    example_id: str,
    by: str,
    annotator: str,
    verdict: Verdict,
    text: str = "",
    comment: str = "",
    drawn: bool = False,
) -> str:
    """Enter a verdict on the answer of `annotator` to a task, and do what follows from it; return
    the task's new state.

    A corrected answer makes `text` the label. One that is returned is open to its annotator again,
    who sees the comment. The same verdict on the same answer counts once.

    Args:
        drawn: whether chance chose the answer, so that the verdict counts in shares with intervals.

    Raises:
        UserError: a correction without a text, or a return without a comment.
        TaskUnknownError: there is no such run or task.
        TaskConflictError: `annotator` has submitted no answer to it.
    """
    if verdict == "corrected" and not text.strip():
        raise UserError("text is empty, expected the correct label")
    if verdict == "returned" and not comment.strip():
        raise UserError("comment is empty, expected what the annotator is to change")
    task_store = open_task_store(journal, run)
    with journal.run_transaction(run) as connection:
        task = task_store.task(connection, example_id)
        answer = task_store.assignment(connection, example_id, annotator)
        last = _find_last(connection, run, example_id, annotator)
        if answer is None or answer["state"] != "submitted":
            if last is not None and (verdict, comment) == (last["verdict"], last["comment"]):
                return str(task["state"])
            raise TaskConflictError(
                f"task '{example_id}' has no answer of {annotator[:80]!r} to review"
            )
        same = last is not None and (verdict, comment, answer["text"]) == (
            last["verdict"],
            last["comment"],
            last["text"],
        )
        if not same:
            entry = {
                "run": run,
                "example_id": example_id,
                "annotator": annotator,
                "verdict": verdict,
                "text": answer["text"],
                "comment": comment,
                "by": by,
                "drawn": drawn,
                "time": journal.database.clock(connection),
            }
            connection.execute(sa.insert(reviews).values(entry))
    if verdict == "corrected":
        return correct_label(journal, run, example_id, by, text, comment)
    if verdict == "returned":
        reopen_tasks(journal, run, [example_id], by, comment, whose=annotator)
        return "open"
    return str(task["state"])


def find_returned(
    connection: sa.Connection, run: str, example_id: str, annotator: str
) -> dict[str, str] | None:
    """Return who sent a person's answer back (`by`) and the `comment`, None if it was not."""
    last = _find_last(connection, run, example_id, annotator)
    if last is None or last["verdict"] != "returned":
        return None
    return {"by": last["by"], "comment": last["comment"]}


def measure_reviews(journal: Journal, run: str, level: float = 0.95) -> list[dict[str, Any]]:
    """Return for each person how many of their answers were `accepted`, `corrected` and `returned`
    when they were first reviewed, and the share accepted of those that were drawn at random.

    `share` is of `drawn` answers, with its Wilson interval `low` to `high`; None without any. What
    a lead looked for tells nothing of all answers, so it does not count there.
    """
    open_task_store(journal, run)
    query = sa.select(reviews.c.example_id, reviews.c.annotator, reviews.c.verdict, reviews.c.drawn)
    query = query.where(reviews.c.run == run).order_by(reviews.c.id)
    first: dict[tuple[str, str], tuple[str, bool]] = {}
    with journal.database.reading() as connection:
        for row in connection.execute(query):
            first.setdefault((row.annotator, row.example_id), (row.verdict, row.drawn))
    people: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for (annotator, _), verdict in first.items():
        people[annotator].append(verdict)
    return [_measure(name, people[name], level) for name in sorted(people)]


def _measure(annotator: str, verdicts: list[tuple[str, bool]], level: float) -> dict[str, Any]:
    counts = Counter(verdict for verdict, _ in verdicts)
    drawn = [verdict == "accepted" for verdict, by_chance in verdicts if by_chance]
    found: dict[str, Any] = {
        "annotator": annotator,
        "reviewed": len(verdicts),
        "accepted": counts["accepted"],
        "corrected": counts["corrected"],
        "returned": counts["returned"],
        "drawn": len(drawn),
        "share": None,
        "low": None,
        "high": None,
    }
    if drawn:
        share = sum(drawn) / len(drawn)
        low, high = bound_share(share, len(drawn), level)
        found |= {"share": share, "low": low, "high": high}
    return found


def bound_share(share: float, count: int, level: float) -> tuple[float, float]:
    """Return the Wilson interval (1927) of a share of `count` draws."""
    # Not scipy's, whose import would hold up the first page of a service.
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


def _find_last(
    connection: sa.Connection, run: str, example_id: str, annotator: str
) -> sa.RowMapping | None:
    here = (reviews.c.run == run) & (reviews.c.example_id == example_id)
    query = sa.select(reviews).where(here & (reviews.c.annotator == annotator))
    return connection.execute(query.order_by(reviews.c.id.desc()).limit(1)).mappings().first()
