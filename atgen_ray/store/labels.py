"""Labels and dead letters of runs: what became of each example.

An example has one label of each annotator, and one dead letter of each step: what comes later
under the same key changes nothing. The functions work within a transaction: those that write, in
one that holds the run's lock (`atgen_ray/store/leases.py`).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.database import Database
from atgen_ray.store.tables import annotations, dead_letters
from atgen_ray.store.totals import NewLabel, add_labels

PAGE = 5_000  # labels that a scan holds at once
START = (-1, -1)  # before the first label


class LabelRow(NamedTuple):
    """A label with its round and its number in the order of entry."""

    round: int
    id: int
    annotation: Annotation


def enter_annotations(
    database: Database,
    connection: sa.Connection,
    run: str,
    round: int,
    new: Sequence[Annotation],
) -> int:
    """Enter the annotations whose example has none by the same annotator yet; return their number.

    Raises:
        ValueError: a price is negative, infinite or NaN; then none is entered.
    """
    for annotation in new:
        if not 0 <= annotation.dollars < math.inf:
            raise ValueError(
                f"annotation of '{annotation.id}' costs {annotation.dollars} dollars, not 0 or more"
            )
    now = database.clock(connection)
    rows = [
        {
            "run": run,
            "round": round,
            "example_id": annotation.id,
            "annotator": annotation.annotator,
            "text": annotation.text,
            "dollars": annotation.dollars,
            "provenance": annotation.provenance,
            "time": now,
        }
        for annotation in new
    ]
    table = annotations.c
    columns = (table.example_id, table.annotator, table.dollars)
    entered = _insert_new(database, connection, annotations, rows, *columns)
    add_labels(connection, run, round, [NewLabel(*label) for label in entered])
    return len(entered)


def list_annotations(
    connection: sa.Connection, run: str, first: int = 0, last: int | None = None
) -> list[tuple[int, Annotation]]:
    """Return the annotations of rounds `first` to `last` with their round, by round and then in the
    order of entry.
    """
    table = annotations.c
    query = sa.select(
        table.round,
        table.example_id,
        table.text,
        table.annotator,
        table.dollars,
        table.provenance,
    )
    query = query.where(table.run == run).order_by(table.round, table.id)
    if first > 0:
        query = query.where(table.round >= first)
    if last is not None:
        query = query.where(table.round <= last)
    return [(round, Annotation(*values)) for round, *values in connection.execute(query)]


def list_page(connection: sa.Connection, run: str, after: tuple[int, int]) -> list[LabelRow]:
    """Return the run's next `PAGE` labels after the round and number `after`, in the order of
    `list_annotations`.
    """
    table = annotations.c
    names = ("round", "id", "example_id", "text", "annotator", "dollars", "provenance")
    later = sa.tuple_(table.round, table.id) > sa.tuple_(*after)
    query = sa.select(*(table[name] for name in names)).where((table.run == run) & later)
    query = query.order_by(table.round, table.id).limit(PAGE)
    rows = connection.execute(query)
    return [LabelRow(round, number, Annotation(*values)) for round, number, *values in rows]


def list_labelled(connection: sa.Connection, run: str, last: int | None = None) -> list[str]:
    """Return the ids of the examples that have a label of a round up to `last`, in the order of
    `list_annotations`, of which no text is read.
    """
    table = annotations.c
    query = sa.select(table.example_id).where(table.run == run)
    if last is not None:
        query = query.where(table.round <= last)
    return list(connection.execute(query.order_by(table.round, table.id)).scalars())


def sum_dollars(connection: sa.Connection, run: str) -> float:
    """Return the summed price of the run's annotations in dollars."""
    total = sa.select(sa.func.sum(annotations.c.dollars)).where(annotations.c.run == run)
    return connection.execute(total).scalar_one() or 0.0


def enter_dead_letters(
    database: Database,
    connection: sa.Connection,
    run: str,
    round: int | None,
    letters: Sequence[DeadLetter],
) -> int:
    """Enter rows that a step could not handle; return how many were new.

    The first reason for an example and step stays.
    """
    rows = [
        {
            "run": run,
            "round": round,
            "example_id": letter.id,
            "step": letter.step,
            "reason": letter.reason,
        }
        for letter in letters
    ]
    return len(_insert_new(database, connection, dead_letters, rows, dead_letters.c.id))


def count_dead_letters(connection: sa.Connection, run: str) -> int:
    """Return the number of the run's dead letters."""
    count = sa.select(sa.func.count()).where(dead_letters.c.run == run)
    return int(connection.execute(count).scalar_one())


def list_buried(connection: sa.Connection, run: str, before: int) -> set[str]:
    """Return the ids of the examples that have a dead letter of a round below `before`, or outside
    all rounds.
    """
    earlier = sa.func.coalesce(dead_letters.c.round, 0) < before
    query = sa.select(dead_letters.c.example_id).where((dead_letters.c.run == run) & earlier)
    return set(connection.execute(query).scalars())


def list_dead_letters(
    connection: sa.Connection, run: str, step: str | None = None, limit: int | None = None
) -> list[tuple[int | None, DeadLetter]]:
    """Return the run's dead letters with their round (None: outside all rounds), in the order of
    entry; with `step` only those of that step, with `limit` so many at most.
    """
    query = sa.select(dead_letters).where(dead_letters.c.run == run)
    if step is not None:
        query = query.where(dead_letters.c.step == step)
    query = query.order_by(dead_letters.c.id).limit(limit)
    return [
        (row.round, DeadLetter(row.example_id, row.step, row.reason))
        for row in connection.execute(query)
    ]


def _insert_new(
    database: Database,
    connection: sa.Connection,
    table: sa.Table,
    rows: list[dict[str, Any]],
    *columns: sa.Column[Any],
) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    """Insert the rows whose unique key is free; return `columns` of these."""
    if not rows:
        return []
    return connection.execute(database.insert_new(table).returning(*columns), rows).all()
