"""The audit: its draws, and estimates that are right in the mean with intervals that hold."""

from typing import Any

import numpy as np
import pytest

from atgen_ray.core.arrays import Integers, Numbers
from atgen_ray.evaluation.audit import (
    AuditSample,
    compare_audited,
    count_first,
    draw_first,
    draw_second,
    estimate_mean,
    score_audit,
)
from atgen_ray.evaluation.audit.design import allocate, merge_groups

NUMBER = 400
IDS = [f"{number:04d}" for number in range(NUMBER)]
SHARES = np.array([0.05, 0.95, 0.5, 0.1])  # right answers of each group
RNG = np.random.default_rng(5)
GROUPS = RNG.choice(4, NUMBER, p=[0.4, 0.3, 0.2, 0.1])
NONE = np.zeros((NUMBER, 0))
NOISE = RNG.normal(size=(NUMBER, 4))
HIDDEN = RNG.normal(size=NUMBER)  # how hard an example is
# The world: scores, what may tell them, and the bounds of the metric.
WORLDS: dict[str, tuple[Any, Any, tuple[float, float] | None]] = {
    "groups tell": ((RNG.random(NUMBER) < SHARES[GROUPS]) * 1.0, NONE, (0.0, 1.0)),
    "features tell": (
        (RNG.random(NUMBER) < 1 / (1 + np.exp(-3 * HIDDEN))) * 1.0,
        np.column_stack([HIDDEN, NOISE]),
        (0.0, 1.0),
    ),
    "nothing tells": ((RNG.random(NUMBER) < 0.4) * 1.0, NOISE, (0.0, 1.0)),
    "rare failures": ((RNG.random(NUMBER) < 0.97) * 1.0, NONE, (0.0, 1.0)),
    "ROUGE": (np.clip(RNG.beta(2, 3, NUMBER) / 2 + SHARES[GROUPS] / 2, 0, 1), NONE, (0.0, 1.0)),
    "nats": (RNG.gamma(1.5, 1, NUMBER) * (1 + SHARES[GROUPS]), NONE, (0.0, np.inf)),
    "difference": (RNG.choice([-1.0, 0, 1], NUMBER, p=[0.05, 0.8, 0.15]), NONE, (-1.0, 1.0)),
}


def draw(
    values: Numbers, features: Numbers, labels: int, rng: np.random.Generator
) -> tuple[AuditSample, Numbers]:
    """A sample of two phases, and its values."""
    first = draw_first(IDS, GROUPS, count_first(labels, NUMBER), rng)
    seen = values[[int(id_) for id_ in first.ids]]
    sample = draw_second(IDS, GROUPS, features, first, seen, labels - len(first.ids), rng)
    return sample, values[[int(id_) for id_ in sample.ids]]


@pytest.mark.parametrize(("labels", "draws"), [(20, 300), (60, 150)])
@pytest.mark.parametrize("world", WORLDS)
def test_estimates_are_unbiased_and_intervals_hold(world: str, labels: int, draws: int) -> None:
    values, features, bounds = WORLDS[world]
    rng = np.random.default_rng(labels)
    truth = values.mean()
    found = [estimate_mean(*draw(values, features, labels, rng), bounds) for _ in range(draws)]
    means = np.array([each.mean for each in found if each])
    held = np.mean([each.low - 1e-9 <= truth <= each.high + 1e-9 for each in found if each])
    assert abs(means.mean() - truth) < 4 * means.std() / np.sqrt(draws)
    # Nominal 0.95, less what chance makes of so many draws; skewed nats lose two points more.
    assert held > 0.95 - 3 * np.sqrt(0.05 * 0.95 / draws) - (0.02 if world == "nats" else 0)


def test_groups_that_tell_save_labels_and_those_that_do_not_cost_none() -> None:
    saved = {}
    for world in ("groups tell", "features tell", "nothing tells"):
        values, features, bounds = WORLDS[world]
        rng = np.random.default_rng(1)
        found = [estimate_mean(*draw(values, features, 60, rng), bounds) for _ in range(200)]
        error = np.var([each.mean for each in found if each])
        saved[world] = 1 - error / (values.var(ddof=1) / 60 * (1 - 60 / NUMBER))
    assert saved["groups tell"] > 0.35
    assert saved["features tell"] > 0.05
    assert saved["nothing tells"] > -0.2


def test_a_sample_is_of_different_examples_and_its_size_is_as_asked() -> None:
    for labels in (8, 20, 61, 399):
        sample, _ = draw(*WORLDS["groups tell"][:2], labels, np.random.default_rng(2))
        assert len(set(sample.ids)) == len(sample.ids) == labels
        assert AuditSample.from_table(sample.to_table()).ids == sample.ids


def test_every_example_may_be_drawn() -> None:
    rng = np.random.default_rng(3)
    values = WORLDS["groups tell"][0]
    drawn = {id_ for _ in range(120) for id_ in draw(values, NONE, 60, rng)[0].ids}
    assert len(drawn) == NUMBER


def test_labels_that_are_missing_stand_for_those_of_their_stratum() -> None:
    sample, values = draw(*WORLDS["groups tell"][:2], 60, np.random.default_rng(4))
    full = estimate_mean(sample, values, (0, 1))
    values[::10] = np.nan
    some = estimate_mean(sample, values, (0, 1))
    assert full is not None
    assert some is not None
    assert some.count == 54
    assert some.mean == pytest.approx(full.mean, abs=0.1)
    # A budget that ran out after the first draw.
    first = estimate_mean(sample, np.where(sample.phases == 1, values, np.nan), (0, 1))
    assert first is not None
    assert first.high - first.low > full.high - full.low
    assert estimate_mean(sample, np.full(60, np.nan)) is None


def test_no_failure_among_few_is_no_proof_of_none() -> None:
    sample, _ = draw(np.ones(NUMBER), NONE, 20, np.random.default_rng(6))
    found = estimate_mean(sample, np.ones(20), (0.0, 1.0))
    assert found is not None
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 20), abs=0.02)  # Clopper and Pearson


def test_a_pool_that_is_all_labelled_is_known() -> None:
    first = draw_first(IDS[:30], GROUPS[:30], 30, np.random.default_rng(0))
    values = WORLDS["groups tell"][0][[int(id_) for id_ in first.ids]]
    found = estimate_mean(first, values, (0, 1))
    assert found is not None
    assert found.mean == found.low == found.high
    assert found.mean == pytest.approx(values.mean())


def test_small_groups_share_a_stratum_in_which_two_are_drawn() -> None:
    groups = np.repeat([0, 1, 2, 3], [90, 6, 3, 1])
    strata = merge_groups(groups, 20)
    assert np.bincount(strata).tolist() == [10, 90]
    shares = allocate(20, np.array([10.0, 90.0]), np.array([10, 90]))
    assert shares.tolist() == [2, 18]


@pytest.mark.parametrize(
    ("count", "wanted", "sizes", "expected"),
    [
        (10, [1.0, 1.0], [50, 50], [5, 5]),
        (10, [0.0, 1.0], [50, 50], [2, 8]),  # two at least
        (10, [1.0, 9.0], [50, 4], [6, 4]),  # no more than there are
        (99, [1.0, 1.0], [3, 4], [3, 4]),
        (3, [1.0, 1.0, 1.0], [9, 9, 9], [1, 1, 1]),  # too few for two of each
    ],
)
def test_allocation(count: int, wanted: list[float], sizes: list[int], expected: list[int]) -> None:
    found: Integers = allocate(count, np.array(wanted), np.array(sizes))
    assert found.tolist() == expected


def test_models_are_compared_on_the_same_examples() -> None:
    values = WORLDS["groups tell"][0]
    sample, seen = draw(values, NONE, 60, np.random.default_rng(7))
    first = rows_of(sample, seen)
    better = rows_of(sample, np.maximum(seen, np.arange(60) % 4 == 0))
    found = compare_audited(sample, first, better, "exact_match", 0.95)
    assert found is not None
    assert 0 < found.low < found.mean < found.high
    means = [score_audit(sample, rows, 0.95)["exact_match"] for rows in (first, better)]
    assert found.mean == pytest.approx(means[1]["mean"] - means[0]["mean"])
    # Narrower than that of two samples that know nothing of each other.
    assert found.error < np.hypot(means[0]["error"], means[1]["error"])


def rows_of(sample: AuditSample, values: Numbers) -> list[dict[str, object]]:
    return [
        {"id": id_, "scores": {"exact_match": float(value)}}
        for id_, value in zip(sample.ids, values, strict=True)
    ]
