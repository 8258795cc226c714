"""Entry point of the strategies: `select_batch` prepares the candidates, runs one strategy and
checks its picks.

A strategy sees only what it declared that it needs, with the candidates sorted by id, so that the
order of the pool cannot matter. A result that is no query batch raises BrokenStrategyError.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from atgen_ray.core.errors import PoolExhausted, UserError, nearest
from atgen_ray.core.records import SELECTION_SCHEMA
from atgen_ray.selection.bounds import attach_bound
from atgen_ray.selection.features import Features, FeatureTable, align
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
    ids: Sequence[str] | pa.StringArray,
    count: int,
    labeled: Collection[str] = (),
    excluded: Collection[str] = (),
    embeddings: Embeddings | None = None,
    features: pa.Table | Features | None = None,
    texts: Mapping[str, str] | pa.Table | None = None,
    labels: Mapping[str, str] | None = None,
    states: States | None = None,
    target: Embeddings | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    round: int = 0,
    workers: Executor | None = None,
) -> pa.Table:
    """Select a query batch: min(count, |U|) rows of SELECTION_SCHEMA by rank, where U is `ids` less
    `labeled` and `excluded`. `strategy` is a name, or the strategy itself.

    The inputs that the strategy needs (`find_needs`) must be given; they may hold further examples:

    embeddings: of U and the labelled examples.
    generations, samples: `features` (FEATURES_SCHEMA, in any order) of U, in a table or elsewhere.
    texts: `texts`, the prompt text by id or a table of both, of U and the labelled examples.
    labels: `labels`, the answer by id, of the labelled examples.
    states: `states` of U, one vector an example from the current model; of labelled examples where
        known. Without them a list column `state` of `features` is read.
    target: `target`, vectors of the prompts to pick for, by ids of their own.
    fields: `fields`, the short columns by id, of U.

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
    given = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
    if pc.count_distinct(given).as_py() != len(given):
        raise ValueError("ids hold an example twice")
    closed = pa.array({*labeled, *excluded}, pa.string())
    # Sorted, so that the order of the pool cannot matter and ties can break by id.
    open_ids = given.filter(pc.invert(pc.is_in(given, closed))).sort()
    if not len(open_ids):
        raise PoolExhausted(f"none of the {len(ids)} examples is left to select")
    inputs = _Inputs(
        chosen,
        settings,
        tuple(sorted(set(labeled))),
        embeddings,
        FeatureTable(features) if isinstance(features, pa.Table) else features,
        states,
        texts,
        labels,
        target,
        fields,
        seed,
        round,
    )
    workers = workers or InProcessExecutor()
    count = min(count, len(open_ids))
    if chosen.distribution_with(settings) == "block":
        picks = _select_by_block(inputs, open_ids, count, workers)
    else:
        picks = inputs.select(open_ids, count, workers)
    return _tabulate(picks, _draw_fill(open_ids, picks, count, seed, round))


@dataclass(frozen=True)
class _Inputs:
    """A strategy, and everything that it may be given."""

    strategy: Strategy
    settings: Parameters
    labeled: tuple[str, ...]  # sorted
    embeddings: Embeddings | None
    features: Features | None
    states: States | None
    texts: Mapping[str, str] | pa.Table | None
    labels: Mapping[str, str] | None
    target: Embeddings | None
    fields: Mapping[str, Mapping[str, Any]] | None
    seed: int
    round: int

    def select(self, open_ids: pa.StringArray, count: int, workers: Executor) -> Picks:
        """Return at most `count` picks among `open_ids`, sorted."""
        ids = tuple(open_ids.to_pylist())
        name = self.strategy.name
        needs = self.strategy.needs_with(self.settings)
        known = _gather(name, needs, ids, self.labeled, self.embeddings, self.features, self.states)
        known |= _gather_texts(name, needs, ids, self.labeled, self.texts, self.labels)
        if "target" in needs:
            if self.target is None:
                raise ValueError(f"'{name}' needs a target: vectors of prompts to pick for")
            known["target_embeddings"] = self.target.take_all()
        if "fields" in needs:
            if self.fields is None:
                raise ValueError(f"'{name}' needs fields: the columns of the examples' rows")
            known["fields"] = tuple(self.fields.get(id_, {}) for id_ in ids)
        candidates = Candidates(
            ids,
            labeled_ids=self.labeled,
            seed=self.seed,
            round=self.round,
            workers=workers,
            **known,
        )
        outcome = self.strategy.select(candidates, self.settings, count)
        picks = outcome if isinstance(outcome, Picks) else _rank(outcome, ids, count)
        _check(picks, ids, count, name)
        return picks


def _select_by_block(
    inputs: _Inputs, open_ids: pa.StringArray, count: int, workers: Executor
) -> Picks:
    """Return the best picks of all blocks of candidates, each of which a worker looks at alone."""
    starts = range(0, len(open_ids), workers.block)
    shared = workers.share(inputs)
    calls = [(shared, open_ids.slice(start, workers.block), count) for start in starts]
    found = workers.map(_select_block, calls, lambda done: workers.progress(done, len(calls)))
    ids = [id_ for picks in found for id_ in picks.ids]
    scores = np.concatenate([picks.scores for picks in found])
    # The blocks are in the order of the ids, so a stable sort breaks ties by id.
    order = np.argsort(-scores, kind="stable")[:count]
    ranked = [picks for picks in found if picks.ids]
    parts = {
        name: np.concatenate([picks.parts[name] for picks in ranked])[order]
        for name in (ranked[0].parts if ranked else ())
    }
    return Picks(pick_ids(ids, order), scores[order], parts)


def _select_block(inputs: _Inputs, ids: pa.StringArray, count: int) -> Picks:
    return inputs.select(ids, min(count, len(ids)), InProcessExecutor())


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
    features: Features | None,
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
        features.take(ids, ["id"])  # raises where one is missing
        known["features"] = features
    if "states" in needs:
        states = states or _read_states(features)
        if states is None:
            raise ValueError(f"'{name}' needs states: one vector an example from the target model")
        known["states"] = states.take(ids)
        # States of labelled examples are optional: strategies use those that are known.
        known["labeled_states"] = states.take(states.keep_known(labeled))
    return known


def _gather_texts(
    name: str,
    needs: Needs,
    ids: tuple[str, ...],
    labeled: tuple[str, ...],
    texts: Mapping[str, str] | pa.Table | None,
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
    name: str, kind: str, texts: Mapping[str, str] | pa.Table | None, ids: tuple[str, ...]
) -> tuple[str, ...]:
    if texts is None:
        raise ValueError(f"'{name}' needs {kind}s")
    if isinstance(texts, pa.Table):
        return tuple(align(texts, ids, "texts")["text"].to_pylist())
    missing = [id for id in ids if id not in texts]
    if missing:
        raise ValueError(f"{len(missing)} examples have no {kind}, the first is '{missing[0]}'")
    return tuple(texts[id] for id in ids)


def _read_states(features: Features | None) -> States | None:
    """Return the states in the features table; None when it has no such column.

    A row whose list is null gets a vector of NaN: the example has no state.
    """
    if features is None or "state" not in features.names:
        return None
    table = features.read(["id", "state"])
    lists = table["state"].combine_chunks()
    present = lists.is_valid().to_numpy(zero_copy_only=False)
    numbers = lists.flatten().to_numpy(zero_copy_only=False)  # without the null lists
    width = max(1, len(numbers) // max(1, int(present.sum())))
    if (pc.list_value_length(lists).drop_null().to_numpy() != width).any():
        raise ValueError("the states in the features table are not all of one length")
    vectors = np.full((len(lists), width), np.nan, dtype=np.float32)
    vectors[present] = numbers.reshape(int(present.sum()), width)
    return States(table["id"].to_pylist(), vectors)


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


def _draw_fill(ids: pa.StringArray, picks: Picks, count: int, seed: int, round: int) -> list[str]:
    """Return random candidates of `ids`, sorted, that fill the batch up to `count`."""
    if len(picks.ids) == count:
        return []
    picked = pa.array(picks.ids, pa.string())
    rest = ids.filter(pc.invert(pc.is_in(ids, picked))).to_pylist()
    draws = draw_uniform(rest, "fill", seed, round)
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
