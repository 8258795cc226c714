"""Totals of each run by round and annotator, labels and money, kept up to date as they change.

The rows of `totals` change in the transaction that enters labels or moves money, under the run's
lock. So they always equal a count over `annotations` and `ledger`, and neither listing runs nor a
look at a budget reads these tables.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from atgen_ray.core.money import NANO
from atgen_ray.store.tables import annotations, events, ledger, runs, totals

KEY = ("run", "round", "annotator")
COUNTED = ("labels", "entries", "paid", "held", "outside", "unledgered", "inherited")
SMALLEST = 1e-6  # dollars of labels outside the ledger that may be lost in rounding
PIECE = 10_000  # ids in one statement: databases limit the number of parameters


@dataclass(frozen=True)
class RunTotals:
    """Status, last round and totals of a run.

    `dollars` is what was paid; `changed` is the time of the last event or change of status, in
    seconds since 1970.
    """

    name: str
    status: str
    round: int
    labels: int
    dollars: float
    changed: float
    title: str | None = None
    archived: float | None = None
    last_event: float | None = None  # its time; None before the first


@dataclass(frozen=True)
class Difference:
    """A total that is not the sum of what is there."""

    round: int
    annotator: str
    column: str
    kept: float
    counted: float


@dataclass(frozen=True)
class NewLabel:
    """A label that a transaction entered, with its own price in dollars."""

    example_id: str
    annotator: str
    dollars: float


def add_labels(connection: sa.Connection, run: str, round: int, new: Sequence[NewLabel]) -> None:
    """Count labels that this transaction entered."""
    entered = _find_entered(connection, run, [label.example_id for label in new])
    for annotator in dict.fromkeys(label.annotator for label in new):
        mine = [label for label in new if label.annotator == annotator]
        prices = [label.dollars for label in mine if label.example_id not in entered]
        amounts = {"labels": len(mine), "outside": len(prices), "unledgered": sum(prices)}
        _add(connection, run, round, annotator, **amounts)


def move_label(
    connection: sa.Connection, run: str, round: int, label: NewLabel, annotator: str | None
) -> None:
    """Count a label for another annotator than before; None: the label is gone."""
    inside = label.example_id in _find_entered(connection, run, [label.example_id])
    amounts = {
        "labels": 1,
        "outside": 0 if inside else 1,
        "unledgered": 0.0 if inside else label.dollars,
    }
    removed = {name: -amount for name, amount in amounts.items()}
    _add(connection, run, round, label.annotator, **removed)
    if annotator is not None:
        _add(connection, run, round, annotator, **amounts)


def add_held(
    connection: sa.Connection,
    run: str,
    round: int,
    annotator: str,
    entries: Sequence[tuple[str, int]],
) -> None:
    """Count money that is about to be held: pairs of example id and billionths of a dollar.

    A label whose example was outside the ledger until now counts by the ledger from here on.
    """
    if not entries:
        return
    examples = sorted({example for example, _ in entries})
    for piece in _pieces(examples):
        _count_outside(connection, run, annotations.c.example_id.in_(piece), -1)
    held = sum(held for _, held in entries)
    _add(connection, run, round, annotator, entries=len(entries), held=held)


def add_paid(connection: sa.Connection, run: str, paid: Mapping[str, int]) -> None:
    """Count money that is about to be settled, by key; entries that are settled already do not
    count again.
    """
    moved: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    columns = sa.select(ledger.c.key, ledger.c.round, ledger.c.annotator, ledger.c.held)
    for piece in _pieces(list(paid)):
        open_entries = (ledger.c.run == run) & ledger.c.paid.is_(None) & ledger.c.key.in_(piece)
        for key, round, annotator, held in connection.execute(columns.where(open_entries)):
            moved[round, annotator]["held"] -= held
            moved[round, annotator]["paid"] += paid[key]
    for (round, annotator), amounts in moved.items():
        _add(connection, run, round, annotator, **amounts)


def count_inherited(connection: sa.Connection, run: str) -> None:
    """Count what other runs paid, once it stands in the ledger of a run that took their labels
    over. To be called once a run, after its labels were entered.
    """
    entered = sa.select(
        ledger.c.round, ledger.c.annotator, sa.func.count(), sa.func.sum(ledger.c.inherited)
    )
    inherited = entered.where((ledger.c.run == run) & ledger.c.inherited.is_not(None))
    group = (ledger.c.round, ledger.c.annotator)
    for round, annotator, count, nano in connection.execute(inherited.group_by(*group)).all():
        _add(connection, run, round, annotator, entries=count, inherited=int(nano))
    # All labels were outside the ledger when they were entered.
    mine = totals.c.run == run
    connection.execute(sa.update(totals).where(mine).values(outside=0, unledgered=0.0))
    _count_outside(connection, run, sa.true(), 1)


def list_totals(connection: sa.Connection, run: str | None = None) -> list[RunTotals]:
    """Return the totals of all runs, the oldest first, or of the one of that name."""
    mine = events.c.run == runs.c.name
    # Written as in the index over committed steps, so that only its last entry is read.
    committed = events.c.kind == sa.literal_column("'step'")
    step_round = sa.func.coalesce(events.c.round, sa.literal_column("-1"))
    last_round = sa.select(sa.func.max(step_round)).where(mine & committed).scalar_subquery()
    last_event = (
        sa.select(events.c.time)
        .where(mine)
        .order_by(events.c.sequence.desc())
        .limit(1)
        .scalar_subquery()
    )
    sums = [sa.func.sum(totals.c[name]).label(name) for name in ("labels", "paid", "unledgered")]
    here = sa.true() if run is None else totals.c.run == run
    counted = sa.select(totals.c.run, *sums).where(here).group_by(totals.c.run).subquery()
    query = sa.select(
        runs.c.name,
        runs.c.status,
        runs.c.updated,
        runs.c.title,
        runs.c.archived,
        counted.c.labels,
        counted.c.paid,
        counted.c.unledgered,
        last_round.label("last_round"),
        last_event.label("last_event"),
    )
    query = query.outerjoin(counted, counted.c.run == runs.c.name).order_by(
        runs.c.created, runs.c.name
    )
    if run is not None:
        query = query.where(runs.c.name == run)
    return [_read(row) for row in connection.execute(query)]


def count_by_round(connection: sa.Connection, run: str) -> dict[int, int]:
    """Return the number of labels of each round that has any."""
    counts = sa.select(totals.c.round, sa.func.sum(totals.c.labels)).where(
        (totals.c.run == run) & (totals.c.labels > 0)
    )
    return {
        round: int(labels) for round, labels in connection.execute(counts.group_by(totals.c.round))
    }


def find_held(connection: sa.Connection, run: str, keys: Sequence[str]) -> dict[str, int]:
    """Return what was held for those of `keys` that are in the run's ledger."""
    found: dict[str, int] = {}
    for piece in _pieces(keys):
        entries = sa.select(ledger.c.key, ledger.c.held)
        mine = (ledger.c.run == run) & ledger.c.key.in_(piece)
        found |= {str(key): int(held) for key, held in connection.execute(entries.where(mine))}
    return found


def find_differences(connection: sa.Connection, run: str) -> list[Difference]:
    """Return where the totals of a run are not the sums over its labels and its ledger."""
    kept = {
        (row.round, row.annotator): row._mapping
        for row in connection.execute(sa.select(totals).where(totals.c.run == run))
    }
    counted = _count(connection, run)
    found = []
    for key in sorted(kept.keys() | counted.keys()):
        round, annotator = key
        for column in COUNTED:
            before = kept[key][column] if key in kept else 0
            now = counted[key][column] if key in counted else 0
            if abs(before - now) > (SMALLEST if column == "unledgered" else 0):
                found.append(Difference(round, annotator, column, float(before), float(now)))
    return found


def recount(connection: sa.Connection, run: str) -> None:
    """Replace the totals of a run by the sums over its labels and its ledger, under its lock."""
    rows = [
        dict(zip(KEY, (run, *key), strict=True)) | amounts
        for key, amounts in _count(connection, run).items()
    ]
    connection.execute(sa.delete(totals).where(totals.c.run == run))
    if rows:
        connection.execute(sa.insert(totals), rows)


def _count(connection: sa.Connection, run: str) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the sums over the labels and the ledger of a run, by round and annotator."""
    found = defaultdict[tuple[int, str], dict[str, Any]](lambda: dict.fromkeys(COUNTED, 0))
    labels = sa.select(annotations.c.round, annotations.c.annotator, sa.func.count())
    group = (annotations.c.round, annotations.c.annotator)
    for *key, count in connection.execute(labels.where(annotations.c.run == run).group_by(*group)):
        found[*key]["labels"] = count
    waiting = sa.case((ledger.c.paid.is_(None), ledger.c.held), else_=0)
    entries = sa.select(
        ledger.c.round,
        ledger.c.annotator,
        sa.func.count(),
        sa.func.sum(ledger.c.paid),
        sa.func.sum(waiting),
        sa.func.sum(ledger.c.inherited),
    )
    group = (ledger.c.round, ledger.c.annotator)
    for *key, count, paid, held, inherited in connection.execute(
        entries.where(ledger.c.run == run).group_by(*group)
    ):
        found[*key]["entries"] = count
        found[*key]["paid"] = int(paid or 0)
        found[*key]["held"] = int(held or 0)
        found[*key]["inherited"] = int(inherited or 0)
    outside = _select_outside(run, sa.true()).subquery()
    sums = (sa.func.count(), sa.func.sum(outside.c.dollars))
    by = (outside.c.round, outside.c.annotator)
    summed = sa.select(*by, *sums).group_by(*by)
    for *key, count, dollars in connection.execute(summed):
        found[*key]["outside"] = count
        found[*key]["unledgered"] = dollars
    return found


def _read(row: sa.Row[*tuple[Any, ...]]) -> RunTotals:
    return RunTotals(
        name=row.name,
        status=row.status,
        round=max(row.last_round or 0, 0),
        labels=int(row.labels or 0),
        dollars=0 if row.paid is None else int(row.paid) / NANO + row.unledgered,
        changed=max(row.updated, row.last_event or 0.0),
        title=row.title,
        archived=row.archived,
        last_event=row.last_event,
    )


def _add(connection: sa.Connection, run: str, round: int, annotator: str, **amounts: float) -> None:
    """Add `amounts` to the columns of that name of the annotator's row of the round."""
    key = dict(zip(KEY, (run, round, annotator), strict=True))
    values = key | dict.fromkeys(COUNTED, 0) | amounts
    connection.execute(_addition(connection.dialect.name), values)


@cache
def _addition(dialect: str) -> sa.Insert:
    """Return the statement that adds to a row of `totals`, or enters it; to build it takes longer
    than to execute it.
    """
    statement = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(totals)
    sums = {name: totals.c[name] + statement.excluded[name] for name in COUNTED}
    return statement.on_conflict_do_update(index_elements=KEY, set_=sums)


def _find_entered(connection: sa.Connection, run: str, examples: Sequence[str]) -> set[str]:
    """Return those of `examples` that have an entry in the ledger."""
    found: set[str] = set()
    for piece in _pieces(examples):
        query = sa.select(ledger.c.example_id).where(
            (ledger.c.run == run) & ledger.c.example_id.in_(piece)
        )
        found.update(connection.execute(query.distinct()).scalars())
    return found


def _count_outside(
    connection: sa.Connection, run: str, which: sa.ColumnElement[bool], sign: int
) -> None:
    """Add `sign` times the labels `which` the ledger does not hold to what is outside it."""
    outside = _select_outside(run, which)
    # Summed here: to group them, SQLite would read all labels by their round.
    counts: Counter[tuple[int, str]] = Counter()
    prices: dict[tuple[int, str], float] = defaultdict(float)
    for round, annotator, dollars in connection.execute(outside):
        counts[round, annotator] += 1
        prices[round, annotator] += dollars
    for key, count in counts.items():
        _add(connection, run, *key, outside=sign * count, unledgered=sign * prices[key])


def _select_outside(run: str, which: sa.ColumnElement[bool]) -> sa.Select[int, str, float]:
    """Select round, annotator and dollars of those labels `which` the ledger does not hold."""
    entered = sa.select(ledger.c.key).where(
        (ledger.c.run == annotations.c.run) & (ledger.c.example_id == annotations.c.example_id)
    )
    return sa.select(annotations.c.round, annotations.c.annotator, annotations.c.dollars).where(
        (annotations.c.run == run) & which & ~entered.exists()
    )


def _pieces(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), PIECE):
        yield items[start : start + PIECE]
