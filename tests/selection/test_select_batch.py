"""The contract of `select_batch`, for every strategy there is."""

import subprocess
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atgen_ray.core.errors import PoolExhausted, UserError
from atgen_ray.selection import (
    STRATEGIES,
    BrokenStrategyError,
    Embeddings,
    Parameters,
    Picks,
    Scores,
    Strategy,
    find_needs,
    find_strategy,
    select_batch,
)
from atgen_ray.testing import STRATEGY_CHECKS
from atgen_ray.testing.pools import Pool, make_pool

# Parameters that lead a strategy down another path than its defaults do.
GUARD = {"guard": {"top_share": 0.3, "disagreement": 0.9, "min_words": 1, "max_symbols": 0.6}}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("facility_location", {"method": "sparse", "neighbors": 3}),
    ("facility_location", {"method": "sparse", "neighbors": 3, "exact_limit": 1}),
    ("facility_location", {"method": "stochastic", "ground": 5}),
    ("facility_location", {"method": "partition", "part_size": 4, "proposals": 2}),
    ("weighted_facility_location", {"method": "sparse", "normalize": "zscore", **GUARD}),
    ("hadas", {"batch_diversity": True, "first": "faithful"}),
    ("badge", {"gradients": True}),
    ("badge", {"space": "embeddings", **GUARD}),
    ("fisher", {"space": "embeddings"}),
    ("k_center", {"space": "states"}),
    ("semantic_entropy", {"same": "words", "weights": "likelihood"}),
    ("targeted_facility_location", {"relevance": 0.0}),
    ("task_diversity", {"column": "kind"}),
    ("dual", {"share": 1.0, "neighbors": 2, "noise_cutoff": 0.5}),
    ("nsp", {"scale": "probability", **GUARD}),
    ("huds", GUARD),
    (
        "ensemble",
        {
            "members": {"bleuvar": {"weight": 1}, "facility_location": {}, "hadas": {}},
            "combine": "reciprocal",
        },
    ),
    (
        "ensemble",
        {"members": {"entropy": {"weight": [0, 1]}, "kmeans": {"weight": [2, 0]}}, **GUARD},
    ),
]
CASES: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in STRATEGIES), *VARIANTS]
every_case = pytest.mark.parametrize(
    ("strategy", "parameters"),
    CASES,
    ids=[f"{name}{place}" for place, (name, _) in enumerate(CASES)],
)


@every_case
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=lambda check: check.__name__)
def test_contract(check, strategy, parameters):
    check(STRATEGIES[strategy], parameters)


@every_case
def test_a_pool_that_no_model_could_read_is_drawn_at_random(strategy, parameters):
    pool = Pool([f"x{number}" for number in range(20)], [(np.nan, np.nan)] * 20, [None] * 20)
    table = pool.select(strategy, 6, parameters)
    if STRATEGIES[strategy].needs - {"texts"}:
        assert table["parts"].to_pylist() == [[("filled", 1.0)]] * 6
        assert (
            table["id"].to_pylist()
            != pool.select(strategy, 6, parameters, seed=8)["id"].to_pylist()
        )


# What these say of an example depends on that example and the labelled ones alone, or on the picks
# before it.
ALONE: list[Any] = [
    "random",
    "length",
    "nsp",
    "ensp",
    "entropy",
    "margin",
    "max_token",
    "bleuvar",
    "semantic_entropy",
]
ALONE += ["self_consistency", "cocoa", "hadas", "k_center", ("fisher", {"normalize": False})]


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_examples_that_leave_the_pool_unpicked_change_nothing(case):
    strategy, parameters = case if isinstance(case, tuple) else (case, {})
    pool = make_pool(120, labeled=20)
    table = pool.select(strategy, 12, parameters)
    gone = [
        row
        for row, id in enumerate(pool.ids)
        if row % 3 or id in table["id"].to_pylist() or id in pool.labeled
    ]
    assert len(gone) < 100
    assert pool.take(gone).select(strategy, 12, parameters).equals(table)


@every_case
def test_a_strategy_that_lacks_what_it_needs_says_so(strategy, parameters):
    pool = make_pool(5, labeled=1)
    needs = find_needs(strategy, parameters)
    part = pool.take([0, 1])

    def refuses(match, **given):
        with pytest.raises(ValueError, match=match):
            pool.select(strategy, 2, parameters, **given)

    if "embeddings" in needs:
        refuses("needs embeddings", embeddings=None)
        refuses("3 examples have no embedding, the first is 'x0002'", embeddings=part.embeddings())
    if needs & {"generations", "samples"}:
        refuses("needs the features table", features=None)
        refuses(
            "3 examples have no row in the features table, the first is 'x0002'",
            features=part.features(),
        )
        refuses("twice", features=pool.take([0, 1, 2, 3, 4, 4]).features())
    if "texts" in needs:
        refuses("needs texts", texts=None)
        refuses(
            "3 examples have no text, the first is 'x0002'",
            texts=dict(zip(part.ids, part.texts, strict=True)),
        )
        refuses(
            "1 examples have no text, the first is 'x0000'",
            texts=dict(zip(pool.ids[1:], pool.texts[1:], strict=True)),
        )
    if "labels" in needs:
        refuses("needs labels", labels=None)
        refuses("1 examples have no label, the first is 'x0000'", labels={})
    if "states" in needs:
        refuses("needs states", states=None)
        refuses("3 examples have no state, the first is 'x0002'", states=part.states())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_are_found_by_name(strategy):
    assert find_strategy(strategy) is STRATEGIES[strategy]


def test_needs_follow_the_parameters():
    assert find_needs("nsp", {}) == {"generations"}
    assert find_needs("nsp", {"guard": {"disagreement": 0.96}}) == {"generations", "samples"}
    assert find_needs("nsp", {"guard": {"min_words": 2}}) == {"generations", "texts"}
    assert find_needs("k_center", {"space": "states"}) == {"states"}
    assert find_needs("badge", {"gradients": True}) == {"states"}
    members = {"hadas": {}, "k_center": {"parameters": {"space": "states"}}}
    assert find_needs("ensemble", {"members": members}) == {
        "generations",
        "texts",
        "labels",
        "states",
    }
    with pytest.raises(UserError, match="k_centre"):
        find_needs("k_centre", {})


def test_states_may_come_as_a_column_of_the_features():
    pool = make_pool(30)
    alone = pool.select("fisher", 5)
    states: list[list[float] | None] = [
        [3 * float(np.float32(value)) for value in vector] for vector in pool.vectors
    ]
    features = pool.features().append_column("state", pa.array(states, pa.list_(pa.float32())))
    assert pool.select("fisher", 5, states=None, features=features)["id"].equals(alone["id"])
    states[int(alone["id"][0].as_py()[1:])] = None
    features = features.set_column(
        features.column_names.index("state"), "state", pa.array(states, pa.list_(pa.float32()))
    )
    assert (
        alone["id"][0].as_py()
        not in pool.select("fisher", 29, states=None, features=features)["id"].to_pylist()
    )
    none = features.set_column(
        features.column_names.index("state"), "state", pa.array([None] * 30, pa.list_(pa.float32()))
    )
    assert (
        pool.select("fisher", 2, states=None, features=none)["parts"].to_pylist()
        == [[("filled", 1.0)]] * 2
    )
    states[3] = [1.0]
    features = features.set_column(
        features.column_names.index("state"), "state", pa.array(states, pa.list_(pa.float32()))
    )
    with pytest.raises(ValueError, match="one length"):
        pool.select("fisher", 5, states=None, features=features)


def define(monkeypatch, select, needs=frozenset()):
    texts: dict[str, Any] = {"title": "Made up", "why": "For a test.", "score": "Any."}
    strategy = Strategy("made-up", needs, Parameters, select, **texts)
    monkeypatch.setitem(STRATEGIES.builtin, "made-up", strategy)


def test_scores_are_ranked_with_ties_by_id_and_the_rest_filled(monkeypatch):
    score = {"a": 1.0, "b": 2.0, "c": np.nan, "d": 2.0, "e": -3.0, "f": np.nan}
    define(
        monkeypatch,
        lambda candidates, parameters, count: Scores(
            np.array([score[id] for id in candidates.ids]),
            {"part": np.array([ord(id) for id in candidates.ids])},
        ),
    )
    rows = select_batch("made-up", {}, ids=list("fedcba"), count=5).to_pylist()
    assert [(row["id"], row["score"]) for row in rows[:4]] == [
        ("b", 2.0),
        ("d", 2.0),
        ("a", 1.0),
        ("e", -3.0),
    ]
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
    with pytest.raises(BrokenStrategyError):
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
        known = {
            field.name
            for field in fields(candidates)
            if getattr(candidates, field.name) is not None
        }
        assert known == {"ids", "labeled_ids", "seed", "round", "workers"}
        for read, need in (
            (candidates.vectors, "embeddings"),
            (candidates.outputs, "generations"),
            (candidates.prompts, "texts"),
            (candidates.answers, "labels"),
            (candidates.model_states, "states"),
        ):
            with pytest.raises(TypeError, match=need):
                read()
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
        np.testing.assert_allclose(vectors, pool.vectors[3:], atol=2**-24)
        np.testing.assert_allclose(labeled, pool.vectors[:3], atol=2**-24)
        assert candidates.prompts() == (tuple(pool.texts[3:]), tuple(pool.texts[:3]))
        assert candidates.answers() == tuple(text[:20] for text in pool.texts[:3])
        states, labeled = candidates.model_states()
        np.testing.assert_allclose(states, 3 * np.array(pool.vectors[3:]), rtol=1e-6)
        np.testing.assert_allclose(
            labeled, 3 * np.array(pool.vectors[1:3]), rtol=1e-6
        )  # the first one has no state
        assert (candidates.seed, candidates.round) == (7, 1)
        return Scores(np.zeros(6))

    define(monkeypatch, look, frozenset({"embeddings", "samples", "texts", "labels", "states"}))
    states = pool.take(list(range(1, 9))).states()
    pool.take([4, 8, 0, 2, 1, 7, 6, 5, 3]).select("made-up", 1, states=states)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("hudz", {}, "strategy is 'hudz', expected a known strategy; did you mean 'huds'?"),
        (
            "huds",
            {"stratas": 3},
            "selection.parameters.stratas is not a parameter of 'huds'; did you mean 'strata'?",
        ),
        (
            "kmeans",
            {"strata": 3},
            "selection.parameters.strata is not a parameter of 'kmeans'; it has none",
        ),
        ("huds", {"strata": 0}, "selection.parameters.strata is 0: Input should be greater than 0"),
        (
            "huds",
            {"normalize": "ranks"},
            "selection.parameters.normalize is 'ranks': Input should be 'rank', ",
        ),
        (
            "nsp",
            {"guard": {"top": 1}},
            "selection.parameters.guard.top is not a parameter of 'nsp'; did you mean 'top_",
        ),
        (
            "ensemble",
            {"members": {"nsp": {"weigth": 1}}},
            "selection.parameters.members.nsp.weigth is not a parameter of 'ensemble'; did you "
            "mean 'weight'?",
        ),
        (
            "nsp",
            {"guard": {"top_share": 2}},
            "selection.parameters.guard.top_share is 2: Input should be less than 1",
        ),
        (
            "hadas",
            {"content": "words"},
            "selection.parameters.content is 'words': 'words' is not a faith",
        ),
        (
            "ensemble",
            {"members": {"nps": {}}},
            "selection.parameters.members is {'nps': {}}: 'nps' is not",
        ),
        (
            "ensemble",
            {"members": {"ensemble": {}}},
            "selection.parameters.members is {'ensemble': {}}: 'ensem",
        ),
        (
            "ensemble",
            {"members": {"huds": {"weight": -1}}},
            "selection.parameters.members.huds.weight.0 is -1: Input s",
        ),
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
        "print([m for m in ('torch', 'ray', 'sklearn', 'scipy', 'rouge_score', 'nltk', 'pandas') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
