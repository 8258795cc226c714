"""The contract of a strategy as tests. Each check raises AssertionError where it does not hold."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from atgen_ray.core.errors import PoolExhausted
from atgen_ray.core.records import SELECTION_SCHEMA
from atgen_ray.selection import Need, Parameters, Strategy, find_needs
from atgen_ray.selection.kernels.executor import InProcessExecutor
from atgen_ray.selection.strategy import ANY_PART, FILLED
from atgen_ray.testing.pools import Pool, make_pool, pools

Values = Mapping[str, Any]
quick = settings(max_examples=25, deadline=None)


def check_strategy(strategy: Strategy, parameters: Values | None = None) -> None:
    """Runs every check on `strategy` with `parameters`, in some seconds.

    Call it once for each set of parameters that leads the strategy down another path.

    Raises:
        AssertionError: the strategy breaks its contract; the message or traceback says where.
        TypeError: it reads what it does not declare.
        UserError: it refuses the parameters.
    """
    for check in STRATEGY_CHECKS:
        check(strategy, parameters or {})


def check_batch(table: pa.Table, pool: Pool, count: int) -> None:
    """`table` is a query batch of `pool`: open examples, none twice, ranks and finite scores."""
    picked = table["id"].to_pylist()
    assert table.schema == SELECTION_SCHEMA
    assert len(picked) == len(set(picked)) == min(count, len(pool.open))
    assert set(picked) <= pool.open
    assert table["rank"].to_pylist() == list(range(1, len(picked) + 1))
    assert np.isfinite(table["score"].to_numpy()).all()
    assert all(np.isfinite(value) for row in table["parts"].to_pylist() for _, value in row)


def picks_as_many_open_examples_as_asked(strategy: Strategy, parameters: Values) -> None:
    """Exactly so many open examples, and none twice, in any small pool."""

    @quick
    @given(pool=pools(), count=st.integers(1, 15))
    def check(pool: Pool, count: int) -> None:
        check_batch(pool.select(strategy, count, parameters), pool, count)

    check()


def ignores_order_and_chunks(strategy: Strategy, parameters: Values) -> None:
    """The order of the pool, and how tables are cut into chunks, never matter."""

    @quick
    @given(pool=pools(), count=st.integers(1, 15), data=st.data())
    def check(pool: Pool, count: int, data: st.DataObject) -> None:
        rows = range(len(pool.ids))
        shuffled = pool.take(data.draw(st.permutations(rows)))
        features = pool.take(data.draw(st.permutations(rows))).features()
        cut = data.draw(st.integers(0, len(features)))
        features = pa.concat_tables([features.slice(0, cut), features.slice(cut)])
        assert shuffled.select(strategy, count, parameters, features=features).equals(
            pool.select(strategy, count, parameters)
        )

    check()


def ignores_order_of_a_larger_pool(strategy: Strategy, parameters: Values) -> None:
    """The order of a pool of 300 never matters."""
    pool = make_pool(300, labeled=40)
    order = np.random.default_rng(5).permutation(300).tolist()
    assert (
        pool.take(order)
        .select(strategy, 30, parameters)
        .equals(pool.select(strategy, 30, parameters))
    )


def ignores_blocks(strategy: Strategy, parameters: Values) -> None:
    """The blocks that a pool is worked on in never matter."""
    pool = make_pool(60, labeled=10)
    whole = pool.select(strategy, 12, parameters)
    for block in (1, 7, 49):
        workers = InProcessExecutor(block=block)
        assert pool.select(strategy, 12, parameters, workers=workers).equals(whole)


def ignores_what_is_outside_the_pool(strategy: Strategy, parameters: Values) -> None:
    """What is known of examples beyond the pool never matters."""
    pool = make_pool(60, labeled=10)
    part = pool.take(list(range(40)))
    alone = part.select(strategy, 8, parameters)
    assert part.select(
        strategy, 8, parameters, embeddings=pool.embeddings(), features=pool.features()
    ).equals(alone)


def selects_nothing_twice_over_the_rounds(strategy: Strategy, parameters: Values) -> None:
    """Rounds use up the pool, each example once."""
    pool = make_pool(23)
    labels: list[str] = []
    for round in range(5):
        left = replace(pool, labeled=frozenset(labels))
        labels += left.select(strategy, 5, parameters, round=round)["id"].to_pylist()
    assert sorted(labels) == pool.ids
    with pytest.raises(PoolExhausted):
        replace(pool, labeled=frozenset(labels)).select(strategy, 5, parameters)


def takes_identical_examples(strategy: Strategy, parameters: Values) -> None:
    """All examples may be the same."""
    ids = [f"x{number}" for number in range(9)]
    pool = Pool(ids, [(0.6, 0.8)] * 9, [[-1.0, -2.0]] * 9, frozenset({"x0"}))
    check_batch(pool.select(strategy, 4, parameters), pool, 4)


def takes_a_pool_of_one(strategy: Strategy, parameters: Values) -> None:
    """The pool may hold one example."""
    pool = Pool(["only"], [(0.0, 1.0)], [[-1.0]])
    assert pool.select(strategy, 3, parameters)["id"].to_pylist() == ["only"]


def takes_a_pool_that_no_model_could_read(strategy: Strategy, parameters: Values) -> None:
    """No example has an output or an embedding."""
    ids = [f"x{number}" for number in range(20)]
    pool = Pool(ids, [(np.nan, np.nan)] * 20, [None] * 20)
    check_batch(pool.select(strategy, 6, parameters), pool, 6)


def reads_only_what_it_needs(strategy: Strategy, parameters: Values) -> None:
    """What the strategy does not declare as needed may be missing."""
    pool = make_pool(30, labeled=3)
    needs = find_needs(strategy, parameters)
    missing: set[str] = {*get_args(Need)} - {"generations", "samples"} - needs
    missing |= set() if needs & {"generations", "samples"} else {"features"}
    full = pool.select(strategy, 4, parameters)
    assert pool.select(strategy, 4, parameters, **dict.fromkeys(missing)).equals(full)


def describes_its_parameters(strategy: Strategy, parameters: Values) -> None:
    """Every parameter has a description, and unknown ones are refused."""
    assert strategy.parameters.__doc__ != Parameters.__doc__, "the parameters have no docstring"
    assert find_needs(strategy, {}) == strategy.needs
    kinds: list[type[BaseModel]] = [strategy.parameters]
    for kind in kinds:
        assert kind.model_config.get("extra") == "forbid", f"{kind.__name__} takes unknown keys"
        assert kind.__doc__, f"{kind.__name__} has no docstring"
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name} has no description"
            kinds += _find_models(field.annotation)


def explains_itself(strategy: Strategy, parameters: Values) -> None:
    """The texts are sentences, and every part that is returned is explained."""
    assert strategy.title[:1].isupper(), "title: expected a name in words"
    assert strategy.title != strategy.name
    texts = {"why": strategy.why, "score": strategy.score, **strategy.parts}
    for name, text in texts.items():
        assert len(text.split()) >= 4, f"{name}: expected a sentence, not {text!r}"
        assert re.match(r"[A-Z1]", text), f"{name}: expected a sentence, not {text!r}"
        assert text.endswith("."), f"{name}: expected a full stop at the end of {text!r}"
        assert "_" not in text, f"{name}: expected plain words, not {text!r}"
    assert not set(strategy.titles) - set(strategy.parts), "titles: names of no part"
    if ANY_PART not in strategy.parts:
        silent = find_parts(strategy, parameters) - set(strategy.parts)
        assert not silent, f"parts that are returned and not explained: {sorted(silent)}"


def find_parts(strategy: Strategy, parameters: Values) -> set[str]:
    """Names of the parts that the strategy returns, with labelled examples and without."""
    pool = make_pool(40, labeled=8)
    found = set()
    for each in (pool, replace(pool, labeled=frozenset())):
        table = each.select(strategy, 6, parameters)
        found |= {part for row in table["parts"].to_pylist() for part, _ in row}
    return found - {FILLED}


def _find_models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in get_args(kind) for model in _find_models(part)]


STRATEGY_CHECKS: tuple[Callable[[Strategy, Values], None], ...] = (
    picks_as_many_open_examples_as_asked,
    ignores_order_and_chunks,
    ignores_order_of_a_larger_pool,
    ignores_blocks,
    ignores_what_is_outside_the_pool,
    selects_nothing_twice_over_the_rounds,
    takes_identical_examples,
    takes_a_pool_of_one,
    takes_a_pool_that_no_model_could_read,
    reads_only_what_it_needs,
    describes_its_parameters,
    explains_itself,
)
