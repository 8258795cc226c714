"""Labels that exist already, brought into a run whose annotator is human."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from atgen_ray.annotation.people.desk import IMPORTED, Desk, TaskConflict, is_closed, open_desk
from atgen_ray.journal import Journal
from atgen_ray.tables import annotations, assignments, tasks


class BroughtLabel(NamedTuple):
    """A label for the example of that `id`, or else with that `input`; by whom it was made."""

    text: str
    id: str | None = None
    input: str | None = None
    annotator: str = IMPORTED


def import_labels(
    journal: Journal, run: str, texts: Mapping[str, str], labels: Sequence[BroughtLabel]
) -> dict[str, Any]:
    """Enters labels as answers of those who made them; nobody is paid for them.

    The label of an example that nobody was asked about joins the labelled set with the next labels that the run takes.

    Args:
        texts: the user turn of every example of the pool, by id.

    Returns:
        How many were `imported`, how many were there before (`known`), and those `refused`: the place in `labels` from
        0, and the reason.

    Raises:
        TaskUnknown, TaskConflict: no such run, or none that people label.
    """
    desk = open_desk(journal, run)
    by_input = {text: id_ for id_, text in texts.items()}
    counts, refused = {"imported": 0, "known": 0}, []
    with journal.shared(run) as connection:
        now = journal.database.clock(connection)
        for place, label in enumerate(labels):
            id_ = label.id if label.id is not None else by_input.get(label.input or "")
            if id_ is None or id_ not in texts:
                refused.append({"place": place, "reason": "the pool has no such example"})
                continue
            try:
                counts["imported" if _enter(desk, connection, label, id_, texts[id_], now) else "known"] += 1
            except TaskConflict as error:
                refused.append({"place": place, "reason": str(error)})
    return counts | {"refused": refused}


def _enter(desk: Desk, connection: sa.Connection, label: BroughtLabel, id_: str, text: str, now: float) -> bool:
    """Whether the label was new."""
    here = desk.mine & (tasks.c.example_id == id_)
    task = connection.execute(sa.select(tasks).where(here)).mappings().one_or_none()
    mine = desk.assignment(connection, id_, label.annotator)
    if mine is not None and mine["state"] == "submitted" and mine["text"] == label.text:
        return False
    if mine is not None:
        raise TaskConflict(f"{label.annotator} works on it, or gave another answer")
    if task is not None and (is_closed(task) or task["decision"] is not None or task["state"] == "answered"):
        raise TaskConflict("it is labelled already")
    if task is None and _is_labeled(connection, desk.run, id_):
        raise TaskConflict("it is labelled already")
    if task is None:
        entry = {"run": desk.run, "example_id": id_, "round": 0, "rank": 0, "wanted": 1, "input": text}
        connection.execute(sa.insert(tasks).values(entry | {"state": "open", "changed": now}))
    key = {"run": desk.run, "example_id": id_, "annotator": label.annotator}
    answer: dict[str, Any] = key | {"state": "submitted", "note": IMPORTED, "text": label.text}
    answer |= {"leased": now, "until": now, "answered": now, "revision": 0}
    connection.execute(sa.insert(assignments).values(answer))
    desk.settle(connection, id_, now)
    return True


def _is_labeled(connection: sa.Connection, run: str, id_: str) -> bool:
    """Whether the run has a label for the example, as one that it has taken over from another run."""
    mine = (annotations.c.run == run) & (annotations.c.example_id == id_)
    return connection.execute(sa.select(annotations.c.id).where(mine)).first() is not None
