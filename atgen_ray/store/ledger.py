"""Ledger of a run: the worst case is reserved before anything is sent, and settled when the bill is
known.

- The reservation and the intent to send are entered in one transaction under the run's lock. So
  neither a crash nor another thread can come between reading the balance and spending it, and a
  budget is never exceeded.
- Money is whole billionths of a dollar, which add up exactly.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from atgen_ray.config import StoppingConfig
from atgen_ray.core.money import NANO, scale
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import ledger, totals
from atgen_ray.store.totals import add_held, add_paid, find_held

Scope = Literal["run", "round"]


@dataclass(frozen=True)
class Entry:
    """Something to pay for. `held` is the most that it can cost, in billionths of a dollar."""

    key: str
    example_id: str
    held: int


@dataclass(frozen=True)
class Balance:
    """Dollars paid, and dollars held for requests under way."""

    paid: float = 0.0
    held: float = 0.0


@dataclass(frozen=True)
class Account:
    """Cost of one annotator's work on a round: entries, and dollars paid and held."""

    round: int
    annotator: str
    entries: int
    paid: float
    held: float
    inherited: float = 0.0  # paid by another run, whose labels were taken over


class Ledger:
    """Reservations and payments of one run.

    The methods work inside a transaction of `Journal.leased_transaction`, which holds the run's
    lock.
    """

    def __init__(self, run: str, stopping: StoppingConfig) -> None:
        self._run = run
        self._limits: dict[Scope, int | None] = {
            "run": _nano(stopping.dollars),
            "round": _nano(stopping.dollars_per_round),
        }

    def reserve(
        self, connection: sa.Connection, round: int, annotator: str, entries: Sequence[Entry]
    ) -> tuple[int, Scope | None]:
        """Hold money for as many of the first `entries` as the budgets allow.

        Returns:
            Their number, and the budget that the next entry would exceed.
        """
        count, limit = self.fit(connection, round, [entry.held for entry in entries])
        self.hold(connection, round, annotator, entries[:count])
        return count, limit

    def fit(
        self, connection: sa.Connection, round: int, amounts: Sequence[int]
    ) -> tuple[int, Scope | None]:
        """Return how many of the first `amounts` the budgets allow now, and the budget that the
        next one would exceed.
        """
        room = {scope: self._room(connection, scope, round) for scope in self._limits}
        for count, amount in enumerate(amounts):
            for scope, left in room.items():
                if left is not None and amount > left:
                    return count, scope
            room = {scope: None if left is None else left - amount for scope, left in room.items()}
        return len(amounts), None

    def hold(
        self, connection: sa.Connection, round: int, annotator: str, entries: Sequence[Entry]
    ) -> None:
        """Enter reservations that `fit` allowed in the same transaction."""
        rows = [
            {
                "run": self._run,
                "key": each.key,
                "round": round,
                "annotator": annotator,
                "example_id": each.example_id,
                "held": each.held,
                "paid": None,
            }
            for each in entries
        ]
        if rows:
            amounts = [(each.example_id, each.held) for each in entries]
            add_held(connection, self._run, round, annotator, amounts)
            connection.execute(sa.insert(ledger), rows)

    def find(self, connection: sa.Connection, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are in the ledger."""
        return set(find_held(connection, self._run, keys))

    def read_held(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
        """Return what was held for those of `keys` that are in the ledger, settled or not."""
        return find_held(connection, self._run, keys)

    def settle(self, connection: sa.Connection, paid: Mapping[str, int]) -> None:
        """Replace what is held by what was `paid`, by key; 0 releases it. A settled entry stays as
        it is.
        """
        if paid:
            add_paid(connection, self._run, paid)
            mine = (
                (ledger.c.run == self._run)
                & (ledger.c.key == sa.bindparam("settled"))
                & ledger.c.paid.is_(None)
            )
            rows = [{"settled": key, "amount": amount} for key, amount in paid.items()]
            connection.execute(
                sa.update(ledger).where(mine).values(paid=sa.bindparam("amount")), rows
            )

    def used(self, connection: sa.Connection, scope: Scope, round: int) -> int:
        """Return what the run, or its `round`, has paid and holds, in billionths of a dollar."""
        mine = totals.c.run == self._run
        if scope == "round":
            mine &= totals.c.round == round
        used = sa.select(sa.func.sum(totals.c.paid + totals.c.held)).where(mine)
        return int(connection.execute(used).scalar_one() or 0)

    def _room(self, connection: sa.Connection, scope: Scope, round: int) -> int | None:
        """Return what is left of a budget; None without one."""
        limit = self._limits[scope]
        return None if limit is None else limit - self.used(connection, scope, round)


def read_balance(journal: Journal, run: str) -> Balance:
    """Return what the run has paid and what it holds."""
    held = sa.select(sa.func.sum(totals.c.held)).where(totals.c.run == run)
    with journal.database.reading() as connection:
        held_now = connection.execute(held).scalar_one()
    return Balance(sum(read_spending(journal, run).values()), int(held_now or 0) / NANO)


def read_inherited(journal: Journal, run: str) -> dict[int, float]:
    """Return the dollars by round that other runs paid for labels which this one has taken over;
    they count against no budget.
    """
    inherited = sa.select(totals.c.round, sa.func.sum(totals.c.inherited)).where(
        (totals.c.run == run) & (totals.c.inherited > 0)
    )
    with journal.database.reading() as connection:
        found = connection.execute(inherited.group_by(totals.c.round))
        return {round: int(nano) / NANO for round, nano in found}


def read_cost(journal: Journal, run: str) -> dict[int, float]:
    """Return the dollars that the labels of each round cost: what this run paid and what other runs
    paid before it.
    """
    paid = read_spending(journal, run)
    inherited = read_inherited(journal, run)
    return {
        round: paid.get(round, 0.0) + inherited.get(round, 0.0)
        for round in paid.keys() | inherited.keys()
    }


def read_accounts(journal: Journal, run: str) -> list[Account]:
    """Return the ledger by round and annotator; labels outside the ledger count with their own
    price.
    """
    query = sa.select(totals).where(totals.c.run == run)
    query = query.order_by(totals.c.round, totals.c.annotator)
    with journal.database.reading() as connection:
        rows = connection.execute(query).all()
    accounts = []
    for row in rows:
        if row.entries:
            amounts = (nano / NANO for nano in (row.paid, row.held, row.inherited))
            accounts.append(Account(row.round, row.annotator, row.entries, *amounts))
        if row.outside:
            accounts.append(Account(row.round, row.annotator, row.outside, row.unledgered, 0.0))
    return accounts


def read_spending(journal: Journal, run: str) -> dict[int, float]:
    """Return the dollars paid in each round, also for answers that gave no label.

    A label whose example is not in the ledger counts with its own price.
    """
    sums = (sa.func.sum(totals.c.paid), sa.func.sum(totals.c.unledgered))
    query = sa.select(totals.c.round, *sums).where(totals.c.run == run)
    with journal.database.reading() as connection:
        return {
            round: int(nano) / NANO + outside
            for round, nano, outside in connection.execute(query.group_by(totals.c.round))
        }


def read_paid(journal: Journal, run: str, annotator: str, round: int) -> dict[str, int]:
    """Return what an annotator's work on each example of a round cost, in billionths of a
    dollar.
    """
    mine = (ledger.c.run == run) & (ledger.c.annotator == annotator) & (ledger.c.round == round)
    query = sa.select(ledger.c.example_id, sa.func.coalesce(ledger.c.paid, 0)).where(mine)
    # Summed here: to group them by example, SQLite would read those of all rounds.
    paid: Counter[str] = Counter()
    with journal.database.reading() as connection:
        for example, nano in connection.execute(query):
            paid[example] += nano
    return dict(paid)


def format_dollars(nano: int) -> str:
    """Format billionths of a dollar as dollars, rounded up to a millionth, so that a budget of that
    many dollars is enough.
    """
    return f"{-(-nano // 1000) / 1_000_000:.6f}".rstrip("0").rstrip(".")


def _nano(dollars: float | None) -> int | None:
    return None if dollars is None else math.floor(scale(dollars))
