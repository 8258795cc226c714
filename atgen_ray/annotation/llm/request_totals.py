"""Sums over the log of provider requests by round, annotator and state, kept up to date as requests
are sent and answered.

The rows of `request_totals` change in the transaction that changes `requests`, under the run's
lock. So they always equal a count, and neither a view nor a round that begins reads the log.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.store.tables import request_totals, requests

KEY = ("run", "round", "annotator", "judged", "state")
SUMMED = ("requests", "billed", "prompt_tokens", "output_tokens")
PIECE = 10_000  # ids in one statement: databases limit the number of parameters


class _Place(NamedTuple):
    """Key of a row within its run."""

    round: int
    annotator: str
    judged: bool
    state: str


@dataclass(frozen=True)
class Outcome:
    """What a request ended as; tokens are None where they are not known."""

    custom_id: str
    state: str
    prompt_tokens: int | None
    output_tokens: int | None


@dataclass
class _Sums:
    requests: int = 0
    billed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    longest: int = 0

    def add(self, prompt_tokens: int | None, output_tokens: int | None, sign: int = 1) -> None:
        """Count a request with its tokens, or with `sign` -1 take it away."""
        self.requests += sign
        self.billed += sign * (output_tokens is not None)
        self.prompt_tokens += sign * (prompt_tokens or 0)
        self.output_tokens += sign * (output_tokens or 0)
        if sign > 0:
            self.longest = max(self.longest, output_tokens or 0)


def is_judged() -> sa.ColumnElement[bool]:
    """Return the condition that a request asks a judge about an answer."""
    return requests.c.example_id.startswith(JUDGED)


def add_sent(
    connection: sa.Connection, run: str, round: int, annotator: str, examples: Iterable[str]
) -> None:
    """Count requests that this transaction enters, by the ids of their examples."""
    found = defaultdict[_Place, _Sums](_Sums)
    for example in examples:
        found[_Place(round, annotator, example.startswith(JUDGED), "sent")].add(None, None)
    _add(connection, run, found)


def move_settled(connection: sa.Connection, run: str, outcomes: Sequence[Outcome]) -> None:
    """Count requests that are about to be settled; what is settled already does not move."""
    by_id = {outcome.custom_id: outcome for outcome in outcomes}
    names = ("custom_id", "round", "annotator")
    columns = (*(requests.c[name] for name in names), is_judged().label("judged"))
    found = defaultdict[_Place, _Sums](_Sums)
    for ids in _pieces([*by_id]):
        mine = (requests.c.run == run) & requests.c.custom_id.in_(ids)
        query = sa.select(*columns).where(mine & (requests.c.state == "sent"))
        for custom_id, round, annotator, judged in connection.execute(query):
            outcome = by_id[custom_id]
            key = (round, annotator, bool(judged))
            found[_Place(*key, "sent")].add(None, None, -1)
            tokens = (outcome.prompt_tokens, outcome.output_tokens)
            found[_Place(*key, outcome.state)].add(*tokens)
    _add(connection, run, found)


def recount_requests(connection: sa.Connection, run: str) -> None:
    """Replace the sums of a run by a count over its requests, under its lock."""
    connection.execute(sa.delete(request_totals).where(request_totals.c.run == run))
    connection.execute(
        sa.insert(request_totals).from_select([*KEY, *SUMMED, "longest"], _count(run))
    )


def has_wrong_sums(connection: sa.Connection, run: str) -> bool:
    """Return whether the sums of a run differ from a count over its requests."""
    columns = [request_totals.c[name] for name in (*KEY, *SUMMED)]
    mine = (request_totals.c.run == run) & (request_totals.c.requests != 0)
    kept = {tuple(row) for row in connection.execute(sa.select(*columns).where(mine))}
    # The longest answer stays when its request is gone.
    return kept != {tuple(row)[:-1] for row in connection.execute(_count(run))}


def _count(run: str) -> sa.Select[*tuple[str | int | bool, ...]]:
    group = (requests.c.run, requests.c.round, requests.c.annotator, is_judged(), requests.c.state)
    tokens = (requests.c.prompt_tokens, requests.c.output_tokens)
    return (
        sa.select(
            *group,
            sa.func.count(),
            sa.func.count(requests.c.output_tokens),
            *(sa.cast(sa.func.coalesce(sa.func.sum(each), 0), sa.BigInteger) for each in tokens),
            sa.func.coalesce(sa.func.max(requests.c.output_tokens), 0),
        )
        .where(requests.c.run == run)
        .group_by(*group)
    )


def _add(connection: sa.Connection, run: str, found: dict[_Place, _Sums]) -> None:
    rows = [{"run": run, **place._asdict(), **vars(sums)} for place, sums in found.items()]
    if rows:
        connection.execute(_addition(connection.dialect.name), rows)


@cache
def _addition(dialect: str) -> sa.Insert:
    """Return the statement that adds to rows of `request_totals`, or enters them."""
    insert = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(request_totals)
    new, kept = insert.excluded, request_totals.c
    values = {name: kept[name] + new[name] for name in SUMMED}
    longest = sa.case((new.longest > kept.longest, new.longest), else_=kept.longest)
    return insert.on_conflict_do_update(index_elements=KEY, set_=values | {"longest": longest})


def _pieces(items: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(items), PIECE):
        yield items[start : start + PIECE]
