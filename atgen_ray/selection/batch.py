"""The one door to the strategies: it decides what a strategy sees, and checks what it gives back."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from atgen_ray.errors import PoolExhausted, UserError, nearest
from atgen_ray.records import SELECTION_SCHEMA
from atgen_ray.selection.contract import Candidates, Embeddings, Parameters, Picks, Scores, Strategy, pick_ids
from atgen_ray.selection.kernels.draws import draw_uniform
from atgen_ray.selection.strategies import STRATEGIES


class BrokenStrategy(AssertionError):
    """A strategy gave back something that is not a query batch: a defect of the strategy, never of the input."""


def find_strategy(name: str) -> Strategy:
    """The strategy called `name`; its `needs` say what to compute before selecting. Raises UserError."""
    if name not in STRATEGIES:
        raise UserError(f"strategy is '{name}', expected a known strategy{nearest(name, STRATEGIES)}")
    return STRATEGIES[name]


def select_batch(
    strategy: str,
    parameters: Mapping[str, Any],
    *,
    ids: Sequence[str],
    count: int,
    labeled: Collection[str] = (),
    excluded: Collection[str] = (),
    embeddings: Embeddings | None = None,
    features: pa.Table | None = None,
    seed: int = 0,
    round: int = 0,
) -> pa.Table:
    """The query batch: min(count, |U|) rows of SELECTION_SCHEMA by rank, U being `ids` less `labeled` and `excluded`.

    Where the strategy needs them, `embeddings` must hold U and the labelled examples, and `features` (FEATURES_SCHEMA,
    in any order) must hold U; more than that does no harm. The result is a function of these sets: the order of rows
    and how tables are chunked never matter, and ties break by id.

    Where a strategy cannot rank enough examples, as those without output or embedding, the rest of the batch is drawn
    at random from the others: such rows have the part `filled` = 1 and a score no larger than any before them.

    Raises UserError for an unknown strategy or parameter, PoolExhausted when U is empty, ValueError when something
    needed is missing, and BrokenStrategy when the strategy breaks its contract.
    """
    chosen = find_strategy(strategy)
    settings = _validate(chosen, parameters)
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1")
    if len(set(ids)) != len(ids):
        raise ValueError("ids hold an example twice")
    open_ids = tuple(sorted(set(ids) - set(labeled) - set(excluded)))
    if not open_ids:
        raise PoolExhausted(f"none of the {len(ids)} examples is left to select")
    candidates = _gather(chosen, open_ids, tuple(sorted(set(labeled))), embeddings, features, seed, round)
    count = min(count, len(open_ids))
    outcome = chosen.select(candidates, settings, count)
    picks = outcome if isinstance(outcome, Picks) else _rank(outcome, open_ids, count)
    _check(picks, open_ids, count, strategy)
    return _tabulate(picks, _draw_fill(candidates, picks, count))


def _validate(strategy: Strategy, parameters: Mapping[str, Any]) -> Parameters:
    try:
        return strategy.parameters.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        known = strategy.parameters.model_fields
        if key not in known:
            hint = nearest(key, known) if known else "; it has none"
            raise UserError(f"selection.parameters.{key} is not a parameter of '{strategy.name}'{hint}") from None
        raise UserError(f"selection.parameters.{key} is {first['input']!r}: {first['msg']}") from None


def _gather(
    strategy: Strategy,
    ids: tuple[str, ...],
    labeled: tuple[str, ...],
    embeddings: Embeddings | None,
    features: pa.Table | None,
    seed: int,
    round: int,
) -> Candidates:
    vectors = labeled_vectors = rows = None
    if "embeddings" in strategy.needs:
        if embeddings is None:
            raise ValueError(f"'{strategy.name}' needs embeddings")
        vectors, labeled_vectors = embeddings.take(ids), embeddings.take(labeled)
    if strategy.needs & {"generations", "samples"}:
        if features is None:
            raise ValueError(f"'{strategy.name}' needs the features table")
        rows = _align(features, ids)
    return Candidates(ids, vectors, rows, labeled, labeled_vectors, seed, round)


def _align(features: pa.Table, ids: tuple[str, ...]) -> pa.Table:
    if pc.count_distinct(features["id"]).as_py() != len(features):
        raise ValueError("the features table holds an example twice")
    rows = pc.index_in(pa.array(ids, pa.string()), features["id"].combine_chunks())
    if rows.null_count:
        missing = ids[rows.is_null().index(True).as_py()]
        raise ValueError(f"{rows.null_count} examples have no row in the features table, the first is '{missing}'")
    return features.take(rows)


def _rank(outcome: Scores, ids: tuple[str, ...], count: int) -> Picks:
    if any(len(values) != len(ids) for values in (outcome.scores, *outcome.parts.values())):
        raise BrokenStrategy("scores or their parts are not one for every candidate")
    scores = np.asarray(outcome.scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")  # ids are sorted: a stable sort breaks ties by id; NaN comes last
    order = order[~np.isnan(scores[order])][:count]
    parts = {name: np.asarray(values)[order] for name, values in outcome.parts.items()}
    return Picks(pick_ids(ids, order), scores[order], parts)


def _check(picks: Picks, ids: tuple[str, ...], count: int, strategy: str) -> None:
    columns = (picks.scores, *picks.parts.values())
    faults = {
        "picked an example twice": len(set(picks.ids)) != len(picks.ids),
        "picked an example that is not a candidate": not set(picks.ids) <= set(ids),
        f"picked {len(picks.ids)} examples where {count} were asked for": len(picks.ids) > count,
        "did not give one score and part for every pick": any(len(column) != len(picks.ids) for column in columns),
        "gave a score or part that is not finite": not all(np.isfinite(column).all() for column in columns),
    }
    for fault, found in faults.items():
        if found:
            raise BrokenStrategy(f"strategy '{strategy}' {fault}")


def _draw_fill(candidates: Candidates, picks: Picks, count: int) -> list[str]:
    rest = sorted(set(candidates.ids) - set(picks.ids)) if len(picks.ids) < count else []
    draws = draw_uniform(rest, "fill", candidates.seed, candidates.round)
    return [rest[row] for row in np.argsort(draws, kind="stable")[: count - len(picks.ids)]]


def _tabulate(picks: Picks, filled: list[str]) -> pa.Table:
    scores = [float(score) for score in picks.scores]
    parts = [{name: float(values[row]) for name, values in picks.parts.items()} for row in range(len(picks.ids))]
    least = min(scores, default=0.0)
    ids = [*picks.ids, *filled]
    columns = {
        "id": ids,
        "rank": range(1, len(ids) + 1),
        "score": [*scores, *([least] * len(filled))],
        "parts": [*(list(row.items()) for row in parts), *([[("filled", 1.0)]] * len(filled))],
    }
    return pa.table(columns, schema=SELECTION_SCHEMA)
