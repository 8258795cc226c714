"""Entry point of the strategies: `select_batch` prepares the candidates, runs one strategy and
checks its picks.

A strategy sees only what it declared that it needs, with the candidates sorted by id, so that the
order of the pool cannot matter. A result that is no query batch raises BrokenStrategyError.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from atgen_ray.core.errors import PoolExhausted, UserError, nearest
from atgen_ray.core.records import SELECTION_SCHEMA
from atgen_ray.selection.bounds import attach_bound
from atgen_ray.selection.kernels.draws import draw_uniform
from atgen_ray.selection.kernels.executor import Executor, InProcessExecutor
from atgen_ray.selection.registry import STRATEGIES
from atgen_ray.selection.strategy import (
    FILLED,
    Candidates,
    Needs,
    Parameters,
    Picks,
    Scores,
    Strategy,
    pick_ids,
)
from atgen_ray.selection.vectors import Embeddings, States


class BrokenStrategyError(AssertionError):
    """A strategy returned something that is not a query batch. The defect is in the strategy, never
    in the input.
    """


def find_strategy(name: str) -> Strategy:
    """Return the strategy called `name`; raise UserError for an unknown name."""
    if name not in STRATEGIES:
        raise UserError(
            f"strategy is '{name}', expected a known strategy{nearest(name, STRATEGIES)}"
        )
    return STRATEGIES[name]


def find_needs(strategy: str | Strategy, parameters: Mapping[str, Any]) -> Needs:
    """Return what must be computed before `strategy`, or the one of that name, can select.

    Raises:
        UserError: the strategy or a parameter is unknown.
    """
    chosen = strategy if isinstance(strategy, Strategy) else find_strategy(strategy)
    return chosen.needs_with(_validate(chosen, parameters))


def select_batch(
    strategy: str | Strategy,
    parameters: Mapping[str, Any],
    *,
    ids: Sequence[str],
    count: int,
    labeled: Collection[str] = (),
    excluded: Collection[str] = (),
    embeddings: Embeddings | None = None,
    features: pa.Table | None = None,
    texts: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    states: States | None = None,
    seed: int = 0,
    round: int = 0,
    workers: Executor | None = None,
) -> pa.Table:
    """Select a query batch: min(count, |U|) rows of SELECTION_SCHEMA by rank, where U is `ids` less
    `labeled` and `excluded`. `strategy` is a name, or the strategy itself.

    The inputs that the strategy needs (`find_needs`) must be given; they may hold further examples:

    embeddings: of U and the labelled examples.
    generations, samples: `features` (FEATURES_SCHEMA, in any order) of U.
    texts: `texts`, the prompt text by id, of U and the labelled examples.
    labels: `labels`, the answer by id, of the labelled examples.
    states: `states` of U, one vector an example from the current model; of labelled examples where
        known. Without them a list column `state` of `features` is read.

    Where the strategy can say how near its picks are to the best ones, `read_bound` reads that from
    the table.

    The result depends on these sets alone: row order, the chunks of tables and the `workers` (by
    default this process) never matter, and ties break by id.

    If a strategy cannot rank enough examples, such as those without an output or embedding, the
    rest of the batch is drawn at random. These rows have the part `filled` = 1 and a score no
    larger than any before them.

    Raises:
        UserError: the strategy or a parameter is unknown.
        PoolExhausted: U is empty.
        ValueError: something that the strategy needs is missing.
        BrokenStrategyError: the strategy returned no query batch.
    """
    chosen = strategy if isinstance(strategy, Strategy) else find_strategy(strategy)
    settings = _validate(chosen, parameters)
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1")
    if len(set(ids)) != len(ids):
        raise ValueError("ids hold an example twice")
    # Sorted, so that the order of the pool cannot matter and ties can break by id.
    open_ids = tuple(sorted(set(ids) - set(labeled) - set(excluded)))
    if not open_ids:
        raise PoolExhausted(f"none of the {len(ids)} examples is left to select")
    labeled_ids = tuple(sorted(set(labeled)))
    needs = chosen.needs_with(settings)
    known = _gather(chosen.name, needs, open_ids, labeled_ids, embeddings, features, states)
    known |= _gather_texts(chosen.name, needs, open_ids, labeled_ids, texts, labels)
    workers = workers or InProcessExecutor()
    candidates = Candidates(
        open_ids, labeled_ids=labeled_ids, seed=seed, round=round, workers=workers, **known
    )
    count = min(count, len(open_ids))
    outcome = chosen.select(candidates, settings, count)
    picks = outcome if isinstance(outcome, Picks) else _rank(outcome, open_ids, count)
    _check(picks, open_ids, count, chosen.name)
    return _tabulate(picks, _draw_fill(candidates, picks, count))


def _validate(strategy: Strategy, parameters: Mapping[str, Any]) -> Parameters:
    """Return the parameters as the strategy's model; raise UserError for the first wrong key."""
    try:
        return strategy.parameters.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors()[0]
        *above, last = first["loc"]
        key = ".".join(str(step) for step in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(strategy.parameters, above)
            hint = nearest(str(last), known) if known else "; it has none"
            raise UserError(
                f"selection.parameters.{key} is not a parameter of '{strategy.name}'{hint}"
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"selection.parameters.{key} is {first['input']!r}: {message}") from None


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at `path` below `model`.

    A step that names no field is the user's own key of a mapping, so the section stays.
    """
    for step in path:
        kind = model.model_fields[str(step)].annotation if str(step) in model.model_fields else None
        sections = [
            part
            for part in (kind, *get_args(kind))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        model = sections[0] if sections else model
    return list(model.model_fields)


def _gather(
    name: str,
    needs: Needs,
    ids: tuple[str, ...],
    labeled: tuple[str, ...],
    embeddings: Embeddings | None,
    features: pa.Table | None,
    states: States | None,
) -> dict[str, Any]:
    """Return the arrays and the table that the strategy needs, aligned with `ids`, as arguments of
    `Candidates`.
    """
    known: dict[str, Any] = {}
    if "embeddings" in needs:
        if embeddings is None:
            raise ValueError(f"'{name}' needs embeddings")
        known["embeddings"] = embeddings.take(ids)
        known["labeled_embeddings"] = embeddings.take(labeled)
    if needs & {"generations", "samples"}:
        if features is None:
            raise ValueError(f"'{name}' needs the features table")
        known["features"] = _align(features, ids)
    if "states" in needs:
        states = states or _read_states(features)
        if states is None:
            raise ValueError(f"'{name}' needs states: one vector an example from the target model")
        known["states"] = states.take(ids)
        # States of labelled examples are optional: strategies use those that are known.
        known["labeled_states"] = states.take([id for id in labeled if id in states])
    return known


def _gather_texts(
    name: str,
    needs: Needs,
    ids: tuple[str, ...],
    labeled: tuple[str, ...],
    texts: Mapping[str, str] | None,
    labels: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the texts and labels that the strategy needs, as arguments of `Candidates`."""
    known: dict[str, Any] = {}
    if "texts" in needs:
        known["texts"] = _look_up(name, "text", texts, ids)
        known["labeled_texts"] = _look_up(name, "text", texts, labeled)
    if "labels" in needs:
        known["labels"] = _look_up(name, "label", labels, labeled)
    return known


def _look_up(
    name: str, kind: str, texts: Mapping[str, str] | None, ids: tuple[str, ...]
) -> tuple[str, ...]:
    if texts is None:
        raise ValueError(f"'{name}' needs {kind}s")
    missing = [id for id in ids if id not in texts]
    if missing:
        raise ValueError(f"{len(missing)} examples have no {kind}, the first is '{missing[0]}'")
    return tuple(texts[id] for id in ids)


def _read_states(features: pa.Table | None) -> States | None:
    """Return the states in the features table; None when it has no such column.

    A row whose list is null gets a vector of NaN: the example has no state.
    """
    if features is None or "state" not in features.column_names:
        return None
    lists = features["state"].combine_chunks()
    present = lists.is_valid().to_numpy(zero_copy_only=False)
    numbers = lists.flatten().to_numpy(zero_copy_only=False)  # without the null lists
    width = max(1, len(numbers) // max(1, int(present.sum())))
    if (pc.list_value_length(lists).drop_null().to_numpy() != width).any():
        raise ValueError("the states in the features table are not all of one length")
    vectors = np.full((len(lists), width), np.nan, dtype=np.float32)
    vectors[present] = numbers.reshape(int(present.sum()), width)
    return States(features["id"].to_pylist(), vectors)


def _align(features: pa.Table, ids: tuple[str, ...]) -> pa.Table:
    """Return the rows of `ids` in that order; raise ValueError where one is missing or doubled."""
    if pc.count_distinct(features["id"]).as_py() != len(features):
        raise ValueError("the features table holds an example twice")
    rows = pc.index_in(pa.array(ids, pa.string()), features["id"].combine_chunks())
    if rows.null_count:
        missing = ids[rows.is_null().index(True).as_py()]
        raise ValueError(
            f"{rows.null_count} examples have no row in the features table, the first is "
            f"'{missing}'"
        )
    return features.take(rows)


def _rank(outcome: Scores, ids: tuple[str, ...], count: int) -> Picks:
    """Return the `count` candidates with the largest scores; those with NaN are never picked."""
    if any(len(values) != len(ids) for values in (outcome.scores, *outcome.parts.values())):
        raise BrokenStrategyError(
            "the strategy did not give one score and part for every candidate"
        )
    scores = np.asarray(outcome.scores, dtype=np.float64)
    # The ids are sorted, so a stable sort breaks ties by id. NaN comes last.
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isnan(scores[order])][:count]
    parts = {name: np.asarray(values)[order] for name, values in outcome.parts.items()}
    return Picks(pick_ids(ids, order), scores[order], parts)


def _check(picks: Picks, ids: tuple[str, ...], count: int, strategy: str) -> None:
    """Raise BrokenStrategyError unless `picks` are a query batch of at most `count` candidates."""
    columns = (picks.scores, *picks.parts.values())
    faults = {
        "picked an example twice": len(set(picks.ids)) != len(picks.ids),
        "picked an example that is not a candidate": not set(picks.ids) <= set(ids),
        f"picked {len(picks.ids)} examples where {count} were asked for": len(picks.ids) > count,
        "did not give one score and part for every pick": any(
            len(column) != len(picks.ids) for column in columns
        ),
        "gave a score or part that is not finite": not all(
            np.isfinite(column).all() for column in columns
        ),
    }
    for fault, found in faults.items():
        if found:
            raise BrokenStrategyError(f"strategy '{strategy}' {fault}")


def _draw_fill(candidates: Candidates, picks: Picks, count: int) -> list[str]:
    """Return random candidates that fill the batch up to `count`."""
    rest = sorted(set(candidates.ids) - set(picks.ids)) if len(picks.ids) < count else []
    draws = draw_uniform(rest, "fill", candidates.seed, candidates.round)
    return [rest[row] for row in np.argsort(draws, kind="stable")[: count - len(picks.ids)]]


def _tabulate(picks: Picks, filled: list[str]) -> pa.Table:
    """Return the batch as a table of SELECTION_SCHEMA, the picks before the `filled` ids."""
    scores = [float(score) for score in picks.scores]
    parts = [
        {name: float(values[row]) for name, values in picks.parts.items()}
        for row in range(len(picks.ids))
    ]
    least = min(scores, default=0.0)
    ids = [*picks.ids, *filled]
    columns = {
        "id": ids,
        "rank": range(1, len(ids) + 1),
        "score": [*scores, *([least] * len(filled))],
        "parts": [*(list(row.items()) for row in parts), *([[(FILLED, 1.0)]] * len(filled))],
    }
    return attach_bound(pa.table(columns, schema=SELECTION_SCHEMA), picks.bound)
