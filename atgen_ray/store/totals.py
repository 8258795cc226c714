"""Totals of each run by round, labels and money, kept up to date as they change.

The rows of `totals` change in the transaction that enters labels or moves money, under the run's
lock. So they always equal a count over `annotations` and `ledger`, and listing runs reads neither
of these tables.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from atgen_ray.core.money import NANO
from atgen_ray.store.tables import annotations, events, ledger, runs, totals

COUNTED = ("labels", "paid", "held", "unledgered", "inherited")
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


def add_labels(
    connection: sa.Connection, run: str, round: int, new: Sequence[tuple[str, float]]
) -> None:
    """Count labels that this transaction entered, given as pairs of example id and price in
    dollars.
    """
    if not new:
        return
    entered = _find_entered(connection, run, [example for example, _ in new])
    outside = sum(dollars for example, dollars in new if example not in entered)
    _add(connection, run, round, labels=len(new), unledgered=outside)


def add_held(
    connection: sa.Connection, run: str, round: int, entries: Sequence[tuple[str, int]]
) -> None:
    """Count money that is about to be held: pairs of example id and billionths of a dollar.

    A label whose example was outside the ledger until now counts by the ledger from here on.
    """
    if not entries:
        return
    for at, dollars in _price_outside(connection, run, [example for example, _ in entries]).items():
        _add(connection, run, at, unledgered=-dollars)
    _add(connection, run, round, held=sum(held for _, held in entries))


def add_paid(connection: sa.Connection, run: str, paid: Mapping[str, int]) -> None:
    """Count money that is about to be settled, by key; entries that are settled already do not
    count again.
    """
    moved: dict[int, Counter[str]] = defaultdict(Counter)
    columns = sa.select(ledger.c.key, ledger.c.round, ledger.c.held)
    for piece in _pieces(list(paid)):
        open_entries = (ledger.c.run == run) & ledger.c.paid.is_(None) & ledger.c.key.in_(piece)
        for key, round, held in connection.execute(columns.where(open_entries)):
            moved[round]["held"] -= held
            moved[round]["paid"] += paid[key]
    for round, amounts in moved.items():
        _add(connection, run, round, **amounts)


def count_inherited(connection: sa.Connection, run: str) -> None:
    """Count what other runs paid, once it stands in the ledger of a run that took their labels
    over. To be called once a run.
    """
    amount = sa.func.sum(ledger.c.inherited).label("amount")
    inherited = sa.select(ledger.c.round, amount).where(
        (ledger.c.run == run) & ledger.c.inherited.is_not(None)
    )
    for round, nano in connection.execute(inherited.group_by(ledger.c.round)).all():
        _add(connection, run, round, inherited=int(nano))


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
    counted = sa.select(totals.c.run, *sums).group_by(totals.c.run).subquery()
    query = sa.select(
        runs.c.name,
        runs.c.status,
        runs.c.updated,
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
    query = sa.select(totals.c.round, totals.c.labels).where(
        (totals.c.run == run) & (totals.c.labels > 0)
    )
    return {row.round: row.labels for row in connection.execute(query)}


def find_keys(connection: sa.Connection, run: str, keys: Sequence[str]) -> set[str]:
    """Return those of `keys` that are in the run's ledger."""
    found: set[str] = set()
    for piece in _pieces(keys):
        query = sa.select(ledger.c.key).where((ledger.c.run == run) & ledger.c.key.in_(piece))
        found.update(connection.execute(query).scalars())
    return found


def _read(row: sa.Row[*tuple[Any, ...]]) -> RunTotals:
    return RunTotals(
        name=row.name,
        status=row.status,
        round=max(row.last_round or 0, 0),
        labels=int(row.labels or 0),
        dollars=0 if row.paid is None else int(row.paid) / NANO + row.unledgered,
        changed=max(row.updated, row.last_event or 0.0),
    )


def _add(connection: sa.Connection, run: str, round: int, **amounts: float) -> None:
    """Add `amounts` to the columns of that name of the run's round."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    values = dict.fromkeys(COUNTED, 0) | amounts
    statement = insert(totals).values({"run": run, "round": round} | values)
    sums = {name: totals.c[name] + statement.excluded[name] for name in COUNTED}
    connection.execute(statement.on_conflict_do_update(index_elements=["run", "round"], set_=sums))


def _find_entered(connection: sa.Connection, run: str, examples: Sequence[str]) -> set[str]:
    """Return those of `examples` that have an entry in the ledger."""
    found: set[str] = set()
    for piece in _pieces(examples):
        query = sa.select(ledger.c.example_id).where(
            (ledger.c.run == run) & ledger.c.example_id.in_(piece)
        )
        found.update(connection.execute(query.distinct()).scalars())
    return found


def _price_outside(
    connection: sa.Connection, run: str, examples: Sequence[str]
) -> dict[int, float]:
    """Return the dollars by round of labels of those `examples` that the ledger does not hold."""
    prices: Counter[int] = Counter()
    group = annotations.c.round
    priced = sa.select(group, sa.func.sum(annotations.c.dollars)).group_by(group)
    entered = sa.select(ledger.c.key).where(
        (ledger.c.run == annotations.c.run) & (ledger.c.example_id == annotations.c.example_id)
    )
    for piece in _pieces(sorted(set(examples))):
        outside = (
            (annotations.c.run == run) & annotations.c.example_id.in_(piece) & ~entered.exists()
        )
        for round, dollars in connection.execute(priced.where(outside)):
            prices[round] += dollars
    return dict(prices)


def _pieces(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), PIECE):
        yield items[start : start + PIECE]
