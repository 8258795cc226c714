"""The contract of `select_batch`, for every strategy there is."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_pools import Pool, make_pool, pools

from atgen_ray.errors import PoolExhausted, UserError
from atgen_ray.records import SELECTION_SCHEMA
from atgen_ray.selection import (
    STRATEGIES,
    BrokenStrategy,
    Embeddings,
    Parameters,
    Picks,
    Scores,
    Strategy,
    find_strategy,
    select_batch,
)

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
quick = settings(max_examples=60, deadline=None)


def check_contract(table: pa.Table, pool: Pool, count: int) -> None:
    picked = table["id"].to_pylist()
    assert table.schema == SELECTION_SCHEMA
    assert len(picked) == len(set(picked)) == min(count, len(pool.open))
    assert set(picked) <= pool.open
    assert table["rank"].to_pylist() == list(range(1, len(picked) + 1))
    assert np.isfinite(table["score"].to_numpy()).all()
    assert all(np.isfinite(value) for row in table["parts"].to_pylist() for _, value in row)


@every_strategy
@quick
@given(pool=pools(), count=st.integers(1, 15))
def test_exactly_so_many_open_examples_and_none_twice(strategy, pool, count):
    check_contract(pool.select(strategy, count), pool, count)


@every_strategy
@quick
@given(pool=pools(), count=st.integers(1, 15), data=st.data())
def test_order_and_chunks_of_the_pool_never_matter(strategy, pool, count, data):
    shuffled = pool.take(data.draw(st.permutations(range(len(pool.ids)))))
    features = pool.take(data.draw(st.permutations(range(len(pool.ids))))).features()
    cut = data.draw(st.integers(0, len(features)))
    features = pa.concat_tables([features.slice(0, cut), features.slice(cut)])
    assert shuffled.select(strategy, count, features=features).equals(pool.select(strategy, count))


@every_strategy
def test_order_of_a_larger_pool_never_matters(strategy):
    pool = make_pool(300, labeled=40)
    order = np.random.default_rng(5).permutation(300).tolist()
    assert pool.take(order).select(strategy, 30).equals(pool.select(strategy, 30))


@every_strategy
def test_what_is_known_beyond_the_pool_never_matters(strategy):
    pool = make_pool(60, labeled=10)
    part = pool.take(list(range(40)))
    alone = part.select(strategy, 8)
    assert part.select(strategy, 8, embeddings=pool.embeddings(), features=pool.features()).equals(alone)


@every_strategy
def test_nothing_is_selected_twice_over_the_rounds(strategy):
    pool = make_pool(23)
    labels: list[str] = []
    for round in range(5):
        labels += (
            Pool(pool.ids, pool.vectors, pool.logprobs, frozenset(labels))
            .select(strategy, 5, round=round)["id"]
            .to_pylist()
        )
    assert sorted(labels) == pool.ids
    with pytest.raises(PoolExhausted):
        Pool(pool.ids, pool.vectors, pool.logprobs, frozenset(labels)).select(strategy, 5)


@every_strategy
def test_identical_examples(strategy):
    pool = Pool([f"x{number}" for number in range(9)], [(0.6, 0.8)] * 9, [[-1.0, -2.0]] * 9, frozenset({"x0"}))
    check_contract(pool.select(strategy, 4), pool, 4)


@every_strategy
def test_a_pool_of_one(strategy):
    pool = Pool(["only"], [(0.0, 1.0)], [[-1.0]])
    assert pool.select(strategy, 3)["id"].to_pylist() == ["only"]


@every_strategy
def test_a_pool_that_no_model_could_read_is_drawn_at_random(strategy):
    pool = Pool([f"x{number}" for number in range(20)], [(np.nan, np.nan)] * 20, [None] * 20)
    table = pool.select(strategy, 6)
    check_contract(table, pool, 6)
    if STRATEGIES[strategy].needs:
        assert table["parts"].to_pylist() == [[("filled", 1.0)]] * 6
        assert table["id"].to_pylist() != pool.select(strategy, 6, seed=8)["id"].to_pylist()


@every_strategy
def test_every_parameter_is_described(strategy):
    parameters = STRATEGIES[strategy].parameters
    assert parameters.model_config["extra"] == "forbid"
    assert all(field.description for field in parameters.model_fields.values())
    assert find_strategy(strategy) is STRATEGIES[strategy]


@every_strategy
def test_a_strategy_that_lacks_what_it_needs_says_so(strategy):
    pool = make_pool(5)
    if "embeddings" in STRATEGIES[strategy].needs:
        with pytest.raises(ValueError, match="embedding"):
            pool.select(strategy, 2, embeddings=None)
        with pytest.raises(ValueError, match="3 examples have no embedding, the first is 'x0002'"):
            pool.select(strategy, 2, embeddings=pool.take([0, 1]).embeddings())
    if STRATEGIES[strategy].needs & {"generations", "samples"}:
        with pytest.raises(ValueError, match="features"):
            pool.select(strategy, 2, features=None)
        with pytest.raises(ValueError, match="3 examples have no row in the features table, the first is 'x0001'"):
            pool.select(strategy, 2, features=pool.take([4, 0]).features())
        with pytest.raises(ValueError, match="twice"):
            pool.select(strategy, 2, features=pool.take([0, 1, 2, 3, 4, 4]).features())


def define(monkeypatch, select, needs=frozenset()):
    monkeypatch.setitem(STRATEGIES, "made-up", Strategy("made-up", needs, Parameters, select))


def test_scores_are_ranked_with_ties_by_id_and_the_rest_filled(monkeypatch):
    score = {"a": 1.0, "b": 2.0, "c": np.nan, "d": 2.0, "e": -3.0, "f": np.nan}
    define(
        monkeypatch,
        lambda candidates, parameters, count: Scores(
            np.array([score[id] for id in candidates.ids]), {"part": np.array([ord(id) for id in candidates.ids])}
        ),
    )
    rows = select_batch("made-up", {}, ids=list("fedcba"), count=5).to_pylist()
    assert [(row["id"], row["score"]) for row in rows[:4]] == [("b", 2.0), ("d", 2.0), ("a", 1.0), ("e", -3.0)]
    assert rows[0]["parts"] == [("part", 98.0)]
    assert rows[4]["id"] in {"c", "f"}
    assert (rows[4]["score"], rows[4]["parts"], rows[4]["rank"]) == (-3.0, [("filled", 1.0)], 5)


@pytest.mark.parametrize(
    "outcome",
    [
        Picks(("a", "a"), np.array([2.0, 1.0])),
        Picks(("a", "labelled"), np.array([2.0, 1.0])),
        Picks(("a", "excluded"), np.array([2.0, 1.0])),
        Picks(("a", "elsewhere"), np.array([2.0, 1.0])),
        Picks(("a", "b", "c"), np.array([3.0, 2.0, 1.0])),
        Picks(("a", "b"), np.array([2.0])),
        Picks(("a", "b"), np.array([2.0, np.nan])),
        Picks(("a", "b"), np.array([2.0, 1.0]), {"part": np.array([1.0, np.inf])}),
        Picks(("a", "b"), np.array([2.0, 1.0]), {"part": np.array([1.0])}),
        Scores(np.array([1.0, 2.0])),
        Scores(np.array([1.0, np.inf, 0.0])),
        Scores(np.array([1.0, 2.0, 3.0]), {"part": np.array([1.0])}),
    ],
)
def test_a_strategy_that_breaks_the_contract_is_caught(monkeypatch, outcome):
    define(monkeypatch, lambda candidates, parameters, count: outcome)
    with pytest.raises(BrokenStrategy):
        select_batch(
            "made-up",
            {},
            ids=["a", "b", "c", "labelled", "excluded"],
            count=2,
            labeled=["labelled"],
            excluded=["excluded"],
        )


def test_a_strategy_sees_only_what_it_declares(monkeypatch):
    pool = make_pool(6, labeled=2)

    def peek(candidates, parameters, count):
        assert (candidates.embeddings, candidates.features, candidates.labeled_embeddings) == (None, None, None)
        with pytest.raises(TypeError, match="embeddings"):
            candidates.vectors()
        with pytest.raises(TypeError, match="generations"):
            candidates.outputs()
        return Scores(np.zeros(len(candidates.ids)))

    define(monkeypatch, peek)
    assert pool.select("made-up", 2)["id"].to_pylist() == ["x0002", "x0003"]


def test_candidates_are_sorted_and_aligned(monkeypatch):
    pool = make_pool(9, labeled=3)

    def look(candidates, parameters, count):
        vectors, labeled = candidates.vectors()
        assert candidates.ids == tuple(pool.ids[3:])
        assert candidates.labeled_ids == tuple(pool.ids[:3])
        assert candidates.outputs()["id"].to_pylist() == pool.ids[3:]
        assert candidates.outputs().schema.names == pool.features().schema.names
        np.testing.assert_allclose(vectors, pool.vectors[3:], rtol=1e-6)
        np.testing.assert_allclose(labeled, pool.vectors[:3], rtol=1e-6)
        assert (candidates.seed, candidates.round) == (7, 1)
        return Scores(np.zeros(6))

    define(monkeypatch, look, frozenset({"embeddings", "samples"}))
    pool.take([4, 8, 0, 2, 1, 7, 6, 5, 3]).select("made-up", 1)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("hudz", {}, "strategy is 'hudz', expected a known strategy; did you mean 'huds'?"),
        ("huds", {"stratas": 3}, "selection.parameters.stratas is not a parameter of 'huds'; did you mean 'strata'?"),
        ("random", {"strata": 3}, "selection.parameters.strata is not a parameter of 'random'; it has none"),
        ("huds", {"strata": 0}, "selection.parameters.strata is 0: Input should be greater than 0"),
        ("huds", {"normalize": "ranks"}, "selection.parameters.normalize is 'ranks': Input should be 'rank', "),
    ],
)
def test_mistakes_in_the_configuration_are_one_clear_line(name, parameters, message):
    with pytest.raises(UserError) as caught:
        select_batch(name, parameters, ids=["a"], count=1)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_misuse():
    with pytest.raises(ValueError, match="count"):
        select_batch("random", {}, ids=["a"], count=0)
    with pytest.raises(ValueError, match="twice"):
        select_batch("random", {}, ids=["a", "a"], count=1)
    with pytest.raises(PoolExhausted):
        select_batch("random", {}, ids=["a"], count=1, excluded=["a"])
    with pytest.raises(PoolExhausted):
        select_batch("random", {}, ids=[], count=1)


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a"], [[1.0, 0.0], [0.0, 1.0]], r"shape \(2, 2\), expected \(1, d\)"),
        (["a"], [1.0], "shape"),
        (["a", "a"], [[1.0, 0.0], [0.0, 1.0]], "twice"),
        (["a", "b"], [[1.0, 0.0], [3.0, 4.0]], "'b' is not L2-normalised"),
    ],
)
def test_embeddings_that_cannot_be_right_are_refused(ids, vectors, message):
    with pytest.raises(ValueError, match=message):
        Embeddings(ids, np.array(vectors))


def test_importing_selection_and_evaluation_stays_light():
    code = (
        "import sys, atgen_ray.selection, atgen_ray.evaluation, atgen_ray.config;"
        "print([m for m in ('torch', 'ray', 'sklearn', 'scipy', 'rouge_score', 'nltk', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
