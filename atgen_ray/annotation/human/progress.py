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
from atgen_ray.annotation.human.gold import is_gold, score_gold
from atgen_ray.annotation.human.reliability import estimate_accuracy, estimate_similarity
from atgen_ray.annotation.human.task_store import find_human, open_task_store
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignees, assignments, tasks

STATES = ("open", "disputed", "answered", "dropped", "taken", "buried")
OWN_PACE = 500  # answers that a person's own pace is measured by
EDITS = 2_000  # answers that are compared with their drafts
COMPARED = 200  # examples on which people are compared
TIMED = 20_000  # answers by which everybody's pace is measured
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
        sa.select(tasks.c.state, sa.func.count())
        .where(task_store.mine & ~is_gold())
        .group_by(tasks.c.state)
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
    is_open = (tasks.c.run == run) & (tasks.c.state == "open") & ~is_gold()
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
    normalised edit distance to it, None where there were no drafts; both of the `EDITS` latest
    answers. `agreement` is as of `measure_agreement`, `accuracy` and `similarity` are as of
    `measure_reliability`, all of the `COMPARED` latest examples with two or more answers. `gold` is
    the share of gold items answered right, with its interval.
    """
    task_store = open_task_store(journal, run)
    here = assignments.c.run == run
    counted = (assignments.c.annotator, assignments.c.state)
    counts = sa.select(*counted, sa.func.count()).where(here).group_by(*counted)
    timed = sa.select(*counted, assignments.c.seconds, assignments.c.answered)
    timed = timed.where(here & assignments.c.answered.is_not(None))
    timed = timed.order_by(assignments.c.answered.desc()).limit(TIMED)
    states: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("submitted", "skipped", "flagged", "leased"), 0)
    )
    with journal.database.reading() as connection:
        for name, state, count in connection.execute(counts):
            states[name][state] = count
        rows = connection.execute(timed).mappings().all()
        edits = _measure_edits(connection, run)
        answers = _read_shared(connection, run)
        gold = score_gold(connection, run, task_store.config)
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
                **states[name],
                **edits.get(name, {"edited": None, "edit_rate": None}),
                **(nothing | reliability.get(name, {})),
                "gold": asdict(gold[name]) if name in gold else None,
            }
            for name in sorted(states)
        ],
        "agreement": measure_agreement(answers),
    }


def measure_people(journal: Journal, run: str) -> list[dict[str, Any]]:
    """Return the `annotators` of `measure_team`; nothing for a run that no people label."""
    if find_human(journal.run(run).config) is None:
        return []
    people: list[dict[str, Any]] = measure_team(journal, run)["annotators"]
    return people


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
        with_others: dict[str, list[float]] = defaultdict(list)
        for one, other in itertools.combinations(given, 2):
            similarity = measure_similarity(given[one], given[other], measure)
            with_others[one].append(similarity)
            with_others[other].append(similarity)
        for name, values in with_others.items():
            similar[name][id_] = statistics.mean(values)
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, estimate in estimate_accuracy(classes).items():
        found[name]["accuracy"] = asdict(estimate)
    for name, estimate in estimate_similarity(similar).items():
        found[name]["similarity"] = asdict(estimate)
    return found


def is_comparable(run: str) -> sa.ColumnElement[bool]:
    """Return the condition that an assignment is a submitted answer, and to no gold item."""
    golden = sa.select(tasks.c.example_id).where((tasks.c.run == run) & is_gold())
    here = (assignments.c.run == run) & (assignments.c.state == "submitted")
    return here & assignments.c.example_id.not_in(golden)


def choose_shared(run: str, order: sa.ColumnElement[Any], count: int) -> sa.Select[str]:
    """Return the query for up to `count` examples that two or more people answered, by `order`."""
    return (
        sa.select(assignments.c.example_id)
        .where(is_comparable(run))
        .group_by(assignments.c.example_id)
        .having(sa.func.count() > 1)
        .order_by(order, assignments.c.example_id)
        .limit(count)
    )


def _read_shared(connection: sa.Connection, run: str) -> dict[str, dict[str, str]]:
    """Return the answers by person to the latest examples that two or more people answered."""
    shared = choose_shared(run, sa.func.max(assignments.c.answered).desc(), COMPARED)
    columns = (assignments.c.example_id, assignments.c.annotator, assignments.c.text)
    query = sa.select(*columns).where(is_comparable(run) & assignments.c.example_id.in_(shared))
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for id_, annotator, text in connection.execute(query.order_by(*columns[:2])):
        found[id_][annotator] = text
    return found


def _measure_edits(connection: sa.Connection, run: str) -> dict[str, dict[str, float]]:
    """Return by person the share of edited answers and their mean edit distance."""
    names = ("example_id", "annotator", "text", "answered")
    latest = (
        sa.select(*(assignments.c[name] for name in names))
        .where((assignments.c.run == run) & (assignments.c.state == "submitted"))
        .order_by(assignments.c.answered.desc())
        .limit(EDITS)
        .subquery()
    )
    joined = (tasks.c.run == run) & (tasks.c.example_id == latest.c.example_id) & ~is_gold()
    query = sa.select(latest.c.annotator, latest.c.text, tasks.c.suggestion).join(tasks, joined)
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
