"""The label that a run has of a task: what it says of its origin, and its change after the run has
taken it.

Invariants: an example has at most one label by people, `human/NAME`. A change is one transaction
with what caused it, moves no money, and has an entry in `revisions` with the round of the label,
which later trainings count from (`store/label_changes.py`).
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.resolution import Resolution
from atgen_ray.store.tables import annotations, dead_letters, revisions
from atgen_ray.store.totals import NewLabel, add_labels, move_label

TOGETHER = 3600.0
OFTEN = ("edited", "withdrawn", "label")  # kinds of changes that annotators make
ANSWER = ("annotator", "text", "seconds", "answered", "guidelines")  # what a label says of each
STEP = "annotation"  # of the dead letter of a task that was given up


def describe_label(
    task: sa.RowMapping, given: Sequence[sa.RowMapping], outcome: Resolution
) -> dict[str, Any]:
    """Return the provenance of a label: the answers `given`, how far they agree, the decision."""
    return {
        "answers": [{name: answer[name] for name in ANSWER} for answer in given],
        "agreement": outcome.agreement,
        "decision": task["decision"],
    }


def enter_revision(
    connection: sa.Connection, run: str, example_id: str, now: float, **values: Any
) -> None:
    """Enter a change: kind, by, annotator, before, after, reason, round.

    Changes of one kind that a person makes within `TOGETHER` seconds are one entry, from the first
    text to the last.
    """
    row = {"run": run, "example_id": example_id, "time": now, **values}
    if values["kind"] in OFTEN:
        here = (revisions.c.run == run) & (revisions.c.example_id == example_id)
        same = here & (revisions.c.kind == values["kind"]) & (revisions.c.by == values["by"])
        query = sa.select(revisions.c.id, revisions.c.before, revisions.c.time).where(same)
        last = connection.execute(query.order_by(revisions.c.id.desc()).limit(1)).one_or_none()
        if last is not None and last.time > now - TOGETHER:
            row["before"] = last.before
            connection.execute(sa.delete(revisions).where(revisions.c.id == last.id))
    connection.execute(sa.insert(revisions).values(row))


def renew_label(
    connection: sa.Connection,
    task: sa.RowMapping,
    answers: Sequence[sa.RowMapping],
    outcome: Resolution,
    now: float,
) -> str:
    """Give the run the label of a task that it collected before, or take away the one that it has
    where the task was dropped; return the new state of the task, taken or buried.
    """
    run, example_id = task["run"], task["example_id"]
    here = (annotations.c.run == run) & (annotations.c.example_id == example_id)
    people = annotations.c.annotator.like("human/%")
    query = sa.select(annotations).where(here & people).order_by(annotations.c.id.desc()).limit(1)
    held = connection.execute(query).mappings().one_or_none()
    letter = (
        (dead_letters.c.run == run)
        & (dead_letters.c.example_id == example_id)
        & (dead_letters.c.step == STEP)
    )
    connection.execute(sa.delete(dead_letters).where(letter))
    if outcome.state == "dropped":
        _bury(connection, task, outcome)
        if held is not None:
            connection.execute(sa.delete(annotations).where(annotations.c.id == held["id"]))
            move_label(connection, run, held["round"], _new(held), None)
            _enter_change(connection, task, held, outcome, now)
        return "buried"
    given = [answer for answer in answers if answer["state"] == "submitted"]
    annotator = f"human/{outcome.annotator}"
    label = {
        "annotator": annotator,
        "text": outcome.text,
        "provenance": describe_label(task, given, outcome),
    }
    if held is None:
        entry = {"run": run, "example_id": example_id, "round": task["round"], "dollars": 0.0}
        connection.execute(sa.insert(annotations).values(entry | label | {"time": now}))
        new = NewLabel(example_id, annotator, 0.0)
        add_labels(connection, run, task["round"], [new])
    else:
        label["provenance"] = held["provenance"] | label["provenance"]
        update = sa.update(annotations).where(annotations.c.id == held["id"])
        connection.execute(update.values(label))
        move_label(connection, run, held["round"], _new(held), annotator)
    if held is None or held["text"] != outcome.text:
        _enter_change(connection, task, held, outcome, now)
    return "taken"


def _new(held: sa.RowMapping) -> NewLabel:
    return NewLabel(held["example_id"], held["annotator"], held["dollars"])


def _bury(connection: sa.Connection, task: sa.RowMapping, outcome: Resolution) -> None:
    letter = {
        "run": task["run"],
        "example_id": task["example_id"],
        "step": STEP,
        "round": task["round"],
        "reason": outcome.reason,
    }
    connection.execute(sa.insert(dead_letters).values(letter))


def _enter_change(
    connection: sa.Connection,
    task: sa.RowMapping,
    held: sa.RowMapping | None,
    outcome: Resolution,
    now: float,
) -> None:
    decision = task["decision"] or {}
    dropped = outcome.state == "dropped"
    enter_revision(
        connection,
        task["run"],
        task["example_id"],
        now,
        kind="label",
        by=decision.get("by") or outcome.annotator,
        annotator=None if dropped else outcome.annotator,
        before=held["text"] if held else None,
        after=None if dropped else outcome.text,
        reason=decision.get("comment") or None,
        round=held["round"] if held else task["round"],
    )
