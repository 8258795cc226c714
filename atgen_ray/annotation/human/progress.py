"""Progress of a run's tasks, and statistics of each person's work: throughput, time per item, edit
rate, agreement.
"""

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import (
    choose_measure,
    edit_similarity,
    measure_agreement,
    measure_similarity,
    normalize_text,
)
from atgen_ray.annotation.human.reliability import estimate_accuracy, estimate_similarity
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignees, assignments, tasks

STATES = ("open", "disputed", "answered", "dropped", "taken", "buried")
OWN_PACE = 500  # answers that a person's own pace is measured by
LATEST = 2_000  # answers that are compared with their drafts
COMPARED = 500  # examples on which people are compared
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
    own_counts = sa.select(assignments.c.state, sa.func.count()).where(mine)
    # Without the texts, and only of the latest: this is asked for with every answer.
    columns = (assignments.c.state, assignments.c.seconds, assignments.c.answered)
    own = sa.select(*columns).where(mine & assignments.c.answered.is_not(None))
    own = own.order_by(assignments.c.answered.desc()).limit(OWN_PACE)
    with journal.database.reading() as connection:
        counts = {str(state): int(count) for state, count in connection.execute(by_state)}
        rows = connection.execute(own).mappings().all()
        states = {
            str(state): int(count)
            for state, count in connection.execute(own_counts.group_by(assignments.c.state))
        }
        left, assigned = _count_left(connection, run, annotator, groups, counts.get("open", 0))
    total = sum(counts.values())
    own_states = ("submitted", "skipped", "flagged", "leased")
    work = measure_work(rows) | {state: states.get(state, 0) for state in own_states}
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


def _count_left(
    connection: sa.Connection, run: str, annotator: str, groups: Sequence[str], open_tasks: int
) -> tuple[int, int]:
    """Return how many of the run's `open_tasks` the person may still do, and how many of these are
    kept for the person.
    """
    is_open = (tasks.c.run == run) & (tasks.c.state == "open")
    touched = (assignments.c.run == tasks.c.run) & (assignments.c.example_id == tasks.c.example_id)
    touched &= (assignments.c.annotator == annotator) & (assignments.c.state != "leased")
    answered = sa.select(sa.func.count()).select_from(assignments).join(tasks, touched)
    done = sa.select(assignments.c.example_id).where(touched).exists()
    kept = sa.select(tasks.c.example_id).join(assignees, _is_for(assignees)).where(is_open & ~done)
    named = assignees.alias()
    names = [annotator, *(f"@{group}" for group in groups)]
    for_me = sa.select(named.c.who).where(_is_for(named) & named.c.who.in_(names)).exists()
    mine = kept.where(for_me).distinct().subquery()
    theirs = kept.where(~for_me).distinct().subquery()
    count = sa.select(sa.func.count())
    gone, own, others = (
        int(connection.execute(query).scalar_one())
        for query in (
            answered.where(is_open),
            count.select_from(mine),
            count.select_from(theirs),
        )
    )
    return open_tasks - gone - others, own


def _is_for(table: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `assignees` is of a task."""
    here: sa.ColumnElement[bool] = table.c.run == tasks.c.run
    return here & (table.c.example_id == tasks.c.example_id)


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
    normalised edit distance to it, None where there were no drafts; both of the `LATEST` answers.
    `agreement` is as of `measure_agreement`, `reliability` as of `measure_reliability`, by person;
    both of the `COMPARED` latest examples with two or more answers.
    """
    task_store = open_task_store(journal, run)
    here = assignments.c.run == run
    columns = [assignments.c[name] for name in ("annotator", "state", "seconds", "answered")]
    with journal.database.reading() as connection:
        rows = connection.execute(sa.select(*columns).where(here)).mappings().all()
        edits = _measure_edits(connection, run)
        answers = _read_shared(connection, run)
    people: dict[str, list[sa.RowMapping]] = defaultdict(list)
    for row in rows:
        people[row["annotator"]].append(row)
    reliability = measure_reliability(answers, task_store.config)
    nothing: dict[str, Any] = {"accuracy": None, "similarity": None}
    return {
        "annotators": [
            {
                "annotator": name,
                **measure_work(people[name]),
                **edits.get(name, {"edited": None, "edit_rate": None}),
                **(nothing | reliability.get(name, {})),
            }
            for name in sorted(people)
        ],
        "agreement": measure_agreement(answers),
    }


def measure_reliability(
    answers: Mapping[str, Mapping[str, str]], config: HumanAnnotatorConfig
) -> dict[str, dict[str, Any]]:
    """Return by person how often they are right where answers are short (`accuracy`), and how
    similar they are to the others where they are free text (`similarity`), by the run's measure.

    Each is None or has `value`, `low` and `high` (95 %) and the number of `examples`.

    Args:
        answers: texts by annotator, by example.
    """
    classes: dict[str, dict[str, str]] = {}
    similar: dict[str, dict[str, float]] = defaultdict(dict)
    for id_, given in answers.items():
        measure = choose_measure(list(given.values()), config.agreement)
        if measure == "exact":
            classes[id_] = {name: normalize_text(text) for name, text in given.items()}
            continue
        for name in given:
            others = [
                measure_similarity(given[name], given[other], measure)
                for other in given
                if other != name
            ]
            if others:
                similar[name][id_] = statistics.mean(others)
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, estimate in estimate_accuracy(classes).items():
        found[name]["accuracy"] = asdict(estimate)
    for name, estimate in estimate_similarity(similar).items():
        found[name]["similarity"] = asdict(estimate)
    return found


def _read_shared(connection: sa.Connection, run: str) -> dict[str, dict[str, str]]:
    """Return the answers by person to the latest examples that two or more people answered."""
    here = (assignments.c.run == run) & (assignments.c.state == "submitted")
    shared = (
        sa.select(assignments.c.example_id)
        .where(here)
        .group_by(assignments.c.example_id)
        .having(sa.func.count() > 1)
        .order_by(sa.func.max(assignments.c.answered).desc(), assignments.c.example_id)
        .limit(COMPARED)
    )
    columns = (assignments.c.example_id, assignments.c.annotator, assignments.c.text)
    query = sa.select(*columns).where(here & assignments.c.example_id.in_(shared))
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for id_, annotator, text in connection.execute(query.order_by(*columns[:2])):
        found[id_][annotator] = text
    return found


def _measure_edits(connection: sa.Connection, run: str) -> dict[str, dict[str, float]]:
    """Return by person the share of edited answers and their mean edit distance."""
    joined = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    query = (
        sa.select(assignments.c.annotator, assignments.c.text, tasks.c.suggestion)
        .join(tasks, joined)
        .where((assignments.c.run == run) & (assignments.c.state == "submitted"))
        .order_by(assignments.c.answered.desc())
        .limit(LATEST)
    )
    distances: dict[str, list[float]] = defaultdict(list)
    for annotator, text, draft in connection.execute(query):
        if draft is not None:
            distances[annotator].append(1.0 - edit_similarity(text, draft["text"]))
    return {
        name: {
            "edited": sum(distance > 0 for distance in found) / len(found),
            "edit_rate": statistics.mean(found),
        }
        for name, found in distances.items()
    }
