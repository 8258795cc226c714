"""The noise guard before uncertainty strategies."""

from dataclasses import replace

import numpy as np
import pytest

from atgen_ray.scoring import bleu_variance, normalized_nll
from atgen_ray.selection import STRATEGIES
from atgen_ray.selection.noise_filter import NoiseFilterParameters
from atgen_ray.testing.pools import Pool, make_pool

GUARDED = [
    name
    for name, strategy in STRATEGIES.items()
    if issubclass(strategy.parameters, NoiseFilterParameters)
]


def picked(pool, strategy, count, guard, **parameters):
    """Ids that the strategy itself picked, in order."""
    rows = pool.select(strategy, count, {"guard": guard, **parameters}).to_pylist()
    return [row["id"] for row in rows if ("filled", 1.0) not in row["parts"]]


def test_every_strategy_that_looks_at_outputs_can_be_guarded():
    reading = {
        name for name, strategy in STRATEGIES.items() if strategy.needs & {"generations", "samples"}
    }
    assert set(GUARDED) == reading


@pytest.mark.parametrize("strategy", GUARDED)
def test_a_strategy_selects_as_if_the_most_uncertain_were_not_there(strategy):
    pool = make_pool(50, labeled=5)
    nll = normalized_nll(pool.features())
    noise = set(sorted(pool.ids[5:], key=lambda id: -nll[pool.ids.index(id)])[:9])
    clean = pool.take([row for row, id in enumerate(pool.ids) if id not in noise])
    expected = [
        row["id"]
        for row in clean.select(strategy, 10).to_pylist()
        if ("filled", 1.0) not in row["parts"]
    ]
    assert picked(pool, strategy, 10, {"top_share": 0.2}) == expected


def test_nothing_is_left_out_by_default():
    pool = make_pool(40)
    assert pool.select("nsp", 10, {"guard": {}}).equals(pool.select("nsp", 10))


def test_disagreement():
    pool = make_pool(40)
    variance = bleu_variance(pool.features())
    limit = float(np.sort(variance)[10])
    assert set(picked(pool, "nsp", 40, {"disagreement": limit})) == {
        pool.ids[row] for row in range(40) if variance[row] < limit
    }


def test_garbage_prompts():
    texts = ["a real question", "???!!", "two words", "", "#include <x> ;;; {}", "日本語の質問"]
    pool = replace(make_pool(6), texts=texts)
    ids = pool.ids
    assert set(picked(pool, "nsp", 6, {"min_words": 2})) == {ids[0], ids[2], ids[4]}
    assert set(picked(pool, "nsp", 6, {"max_symbols": 0.3})) == {ids[0], ids[2], ids[5]}


def test_what_is_left_out_fills_the_batch():
    pool = make_pool(10)
    table = pool.select("nsp", 10, {"guard": {"top_share": 0.5}})
    assert sorted(table["id"].to_pylist()) == pool.ids
    assert table["parts"].to_pylist()[5:] == [[("filled", 1.0)]] * 5


def test_a_guard_that_admits_nobody_leaves_a_random_batch():
    pool = Pool(list("abcd"), [(1.0, 0.0)] * 4, [[-1.0]] * 4)
    assert picked(pool, "nsp", 2, {"min_words": 99}) == []
    assert len(pool.select("nsp", 2, {"guard": {"min_words": 99}})) == 2


def test_an_example_without_output_is_no_noise():
    """One in three is the most uncertain of those that have an uncertainty."""
    pool = Pool(list("abcd"), [(1.0, 0.0)] * 4, [[-1.0], [-3.0], None, [-2.0]])
    assert picked(pool, "nsp", 4, {"top_share": 0.34}) == ["d", "a"]
