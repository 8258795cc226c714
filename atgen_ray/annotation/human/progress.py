"""Progress of a run's tasks, and statistics of each person's work: throughput, time per item, edit
rate, agreement.
"""

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import edit_similarity, measure_agreement
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignees, assignments, tasks

STATES = ("open", "disputed", "answered", "dropped", "taken", "buried")
BREAK_SECONDS = 30 * 60  # a longer pause between two answers does not count as work


def measure_progress(
    journal: Journal, run: str, annotator: str, groups: Sequence[str] = ()
) -> dict[str, Any]:
    """Return how many tasks of a run are in each state (`tasks`), how many of the `total` are
    `done`, and the person's `own` work.

    `own` is as of `measure_work`, with `done` (answers of any kind), `open` (tasks that the person
    may still do), `assigned` (those of them that are kept for the person or one of `groups`), and
    `left_seconds`, how long these take at the person's own pace: those that are assigned, or else
    all that are open. It is None before the pace is known.
    """
    task_store = open_task_store(journal, run)
    by_state = (
        sa.select(tasks.c.state, sa.func.count()).where(task_store.mine).group_by(tasks.c.state)
    )
    mine = (assignments.c.run == run) & (assignments.c.annotator == annotator)
    own = sa.select(assignments.c.state, assignments.c.seconds, assignments.c.answered).where(mine)
    with journal.database.reading() as connection:
        counts = {str(state): int(count) for state, count in connection.execute(by_state)}
        rows = connection.execute(own).mappings().all()
        left, assigned = _count_left(connection, run, annotator, groups, counts.get("open", 0))
    total = sum(counts.values())
    work = measure_work(rows)
    pace = 3600 / work["an_hour"] if work["an_hour"] else work["seconds"]
    return {
        "tasks": {state: counts.get(state, 0) for state in STATES},
        "done": total - counts.get("open", 0) - counts.get("disputed", 0),
        "total": total,
        "own": work
        | {
            "done": work["submitted"] + work["skipped"] + work["flagged"],
            "open": left,
            "assigned": assigned,
            "left_seconds": None if pace is None else (assigned or left) * pace,
        },
    }


def count_open(
    journal: Journal, run: str, annotator: str, groups: Sequence[str] = ()
) -> int | None:
    """Return how many tasks of a run the person may still do; None where nobody labels for it."""
    here = tasks.c.run == run
    counts = sa.select(sa.func.sum(sa.case((tasks.c.state == "open", 1), else_=0))).where(here)
    with journal.database.reading() as connection:
        found = connection.execute(counts).scalar_one()
        if found is None:
            return None
        return _count_left(connection, run, annotator, groups, int(found))[0]


def _count_left(
    connection: sa.Connection, run: str, annotator: str, groups: Sequence[str], open_tasks: int
) -> tuple[int, int]:
    """Return how many of the run's `open_tasks` the person may still do, and how many of these are
    kept for the person.
    """
    is_open = (tasks.c.run == run) & (tasks.c.state == "open")
    touched = (assignments.c.run == tasks.c.run) & (assignments.c.example_id == tasks.c.example_id)
    touched &= (assignments.c.annotator == annotator) & (assignments.c.state != "leased")
    kept = (assignees.c.run == tasks.c.run) & (assignees.c.example_id == tasks.c.example_id)
    for_me = assignees.c.who.in_([annotator, *(f"@{group}" for group in groups)])

    def count(*joins: tuple[sa.Table, sa.ColumnElement[bool]]) -> int:
        query = sa.select(sa.func.count(sa.distinct(tasks.c.example_id))).select_from(tasks)
        for table, condition in joins:
            query = query.join(table, condition)
        return int(connection.execute(query.where(is_open)).scalar_one())

    if not connection.execute(sa.select(assignees.c.who).where(assignees.c.run == run)).first():
        return open_tasks - count((assignments, touched)), 0
    done = (assignments, touched)
    own = count((assignees, kept & for_me)) - count((assignees, kept & for_me), done)
    others = count((assignees, kept)) - count((assignees, kept), done) - own
    return open_tasks - count(done) - others, own


def measure_work(rows: Sequence[sa.RowMapping]) -> dict[str, Any]:
    """Return statistics of one person's assignments.

    `seconds` is the median time for an answer as the browser measured it; `an_hour` is the number
    of answers per hour of work, where pauses of over half an hour do not count. Each is None where
    it cannot be computed.
    """
    states = Counter(row["state"] for row in rows)
    seconds = [
        row["seconds"] for row in rows if row["state"] == "submitted" and row["seconds"] is not None
    ]
    times = sorted(row["answered"] for row in rows if row["answered"] is not None)
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    worked = sum(gap for gap in gaps if gap <= BREAK_SECONDS)
    counted = sum(gap <= BREAK_SECONDS for gap in gaps)
    return {
        "submitted": states["submitted"],
        "skipped": states["skipped"],
        "flagged": states["flagged"],
        "leased": states["leased"],
        "seconds": statistics.median(seconds) if seconds else None,
        "an_hour": counted / worked * 3600 if worked > 0 else None,
    }


def measure_team(journal: Journal, run: str) -> dict[str, Any]:
    """Return everybody's work with the edit rate, and how far people agree.

    `edited` is the share of answers that differ from the model's draft, `edit_rate` the mean
    normalised edit distance to it, None where there were no drafts. `agreement` is as of
    `measure_agreement`.
    """
    task_store = open_task_store(journal, run)
    query = sa.select(assignments).where(assignments.c.run == run).order_by(assignments.c.annotator)
    with journal.database.reading() as connection:
        rows = connection.execute(query).mappings().all()
        drafts = sa.select(tasks.c.example_id, tasks.c.suggestion).where(task_store.mine)
        suggested = {
            id_: draft["text"] for id_, draft in connection.execute(drafts) if draft is not None
        }
    people: dict[str, list[sa.RowMapping]] = defaultdict(list)
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        people[row["annotator"]].append(row)
        if row["state"] == "submitted":
            answers[row["example_id"]][row["annotator"]] = row["text"]
    return {
        "annotators": [
            {"annotator": name, **measure_work(own), **_measure_edits(own, suggested)}
            for name, own in people.items()
        ],
        "agreement": measure_agreement(answers),
    }


def _measure_edits(
    rows: Sequence[sa.RowMapping], suggested: dict[str, str]
) -> dict[str, float | None]:
    """Return the share of edited answers and their mean edit distance."""
    distances = [
        1.0 - edit_similarity(row["text"], suggested[row["example_id"]])
        for row in rows
        if row["state"] == "submitted" and row["example_id"] in suggested
    ]
    if not distances:
        return {"edited": None, "edit_rate": None}
    return {
        "edited": sum(distance > 0 for distance in distances) / len(distances),
        "edit_rate": statistics.mean(distances),
    }
