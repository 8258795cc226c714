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
from atgen_ray.store.tables import assignments, tasks

STATES = ("open", "disputed", "answered", "dropped", "taken", "buried")
LATEST = 500  # answers that a person's own pace is measured by
BREAK_SECONDS = 30 * 60  # a longer pause between two answers does not count as work


def measure_progress(journal: Journal, run: str, annotator: str) -> dict[str, Any]:
    """Return how many tasks of a run are in each state (`tasks`), how many of the `total` are
    `done`, and the person's `own` work.
    """
    task_store = open_task_store(journal, run)
    by_state = (
        sa.select(tasks.c.state, sa.func.count()).where(task_store.mine).group_by(tasks.c.state)
    )
    mine = (assignments.c.run == run) & (assignments.c.annotator == annotator)
    own_states = sa.select(assignments.c.state, sa.func.count()).where(mine)
    # Without the texts, and only of the latest: this is asked for with every answer.
    columns = (assignments.c.state, assignments.c.seconds, assignments.c.answered)
    own = sa.select(*columns).where(mine & assignments.c.answered.is_not(None))
    own = own.order_by(assignments.c.answered.desc()).limit(LATEST)
    with journal.database.reading() as connection:
        counts = {str(state): int(count) for state, count in connection.execute(by_state)}
        rows = connection.execute(own).mappings().all()
        work = {
            str(state): int(count)
            for state, count in connection.execute(own_states.group_by(assignments.c.state))
        }
    total = sum(counts.values())
    return {
        "tasks": {state: counts.get(state, 0) for state in STATES},
        "done": total - counts.get("open", 0) - counts.get("disputed", 0),
        "total": total,
        "own": measure_work(rows)
        | {state: work.get(state, 0) for state in ("submitted", "skipped", "flagged", "leased")},
    }


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
