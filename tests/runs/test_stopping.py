"""When a run ends: each rule alone, which one is named first, and never before a rule holds."""

import inspect
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.config import PlateauConfig, StoppingConfig
from atgen_ray.runs.audit import AuditedScores
from atgen_ray.runs.learning_curve import predict_gain
from atgen_ray.runs.stopping import find_stop

PLATEAU = "plateau: rougeL on the dev split no longer rises"


def stop(
    rounds: int = 1, labels: int = 10, scores: Any = (), selectable: int = 99, **rules: Any
) -> str | None:
    """Why a run with these rules ends; `scores` are the dev split's rougeL by round."""
    config = StoppingConfig.model_validate({"rounds": 100} | rules)
    dev_scores = [score if isinstance(score, dict) else {"rougeL": score} for score in scores]
    return find_stop(config, rounds, labels, dev_scores, selectable)


def test_no_rule_holds() -> None:
    assert stop(rounds=99, labels=9, scores=[0.1, 0.2], selectable=1) is None
    assert stop(rounds=99, selectable=1) is None
    assert stop(rounds=0, labels=0) is None


@pytest.mark.parametrize(("rounds", "ends"), [(0, False), (2, False), (3, True), (4, True)])
def test_rounds(rounds: int, ends: bool) -> None:
    config = StoppingConfig(rounds=3)
    assert find_stop(config, rounds, 10, [], 99) == ("all rounds done" if ends else None)


@pytest.mark.parametrize(("labels", "ends"), [(0, False), (49, False), (50, True), (51, True)])
def test_label_budget(labels: int, ends: bool) -> None:
    config = StoppingConfig(rounds=9, labels=50)
    assert find_stop(config, 1, labels, [], 99) == ("label budget spent" if ends else None)


def test_an_exhausted_pool() -> None:
    assert stop(selectable=0) == "pool exhausted"
    assert stop(rounds=0, labels=0, selectable=0) == "pool exhausted"
    assert stop(selectable=1) is None


@pytest.mark.parametrize(
    ("scores", "ends"),
    [
        ([], False),
        ([{"rougeL": 0.5, "exact_match": 0.3}], True),
        ([{"rougeL": 0.6, "exact_match": 0.9}], True),
        ([{"rougeL": 0.49, "exact_match": 0.9}], False),
        ([{"rougeL": 0.9, "exact_match": 0.29}], False),
        (
            [{"rougeL": 0.9, "exact_match": 0.9}, {"rougeL": 0.4, "exact_match": 0.9}],
            False,
        ),  # the last round counts
    ],
)
def test_the_dev_target_is_reached_by_every_metric(
    scores: list[dict[str, float]], ends: bool
) -> None:
    reason = stop(scores=scores, dev_target={"rougeL": 0.5, "exact_match": 0.3})
    assert reason == ("dev target reached" if ends else None)


@pytest.mark.parametrize(
    ("scores", "ends"),
    [
        ([], False),
        ([0.5], False),
        ([0.5, 0.5], False),  # patience takes two rounds after the best one
        ([0.5, 0.5, 0.5], True),
        ([0.5, 0.4, 0.3], True),
        ([0.5, 0.4, 0.6], False),
        ([0.5, 0.6, 0.4], False),
        ([0.5, 0.504, 0.502], True),  # below min_delta
        ([0.5, 0.4, 0.507], False),
        ([0.5, 0.504, 0.508], False),  # a slow rise adds up
        ([0.9, 0.5, 0.6, 0.7], True),  # compared with the best round, not with the last one
        ([0.1, 0.5, 0.5, 0.5], True),
        ([0.1, 0.2, 0.3, 0.4], False),
    ],
)
def test_a_plateau_of_two_rounds(scores: list[float], ends: bool) -> None:
    reason = stop(scores=scores, plateau={"patience": 2, "min_delta": 0.005})
    assert reason == (PLATEAU if ends else None)


def test_a_rise_of_just_min_delta_counts_and_no_rise_never_does() -> None:
    assert stop(scores=[0.5, 0.75], plateau={"patience": 1, "min_delta": 0.25}) is None
    assert stop(scores=[0.5, 0.749], plateau={"patience": 1, "min_delta": 0.25}) == PLATEAU
    assert stop(scores=[0.5, 0.5], plateau={"patience": 1, "min_delta": 0.0}) == PLATEAU
    assert stop(scores=[0.5, 0.5000001], plateau={"patience": 1, "min_delta": 0.0}) is None


def test_the_plateau_looks_at_its_own_metric() -> None:
    scores = [{"rougeL": 0.5, "token_f1": at / 10} for at in range(5)]
    assert stop(scores=scores, plateau={"patience": 1}) == PLATEAU
    reason = stop(scores=scores, plateau={"patience": 1, "metric": "token_f1"})
    assert reason is None


def test_what_was_reached_is_named_before_what_ran_out() -> None:
    rules: dict[str, Any] = {
        "dev_target": {"rougeL": 0.5},
        "plateau": {"patience": 1},
        "labels": 10,
        "rounds": 1,
    }
    order = [
        "dev target reached",
        PLATEAU,
        "label budget spent",
        "all rounds done",
        "pool exhausted",
    ]
    for key, reason in zip(("dev_target", "plateau", "labels", "rounds", ""), order, strict=True):
        config = StoppingConfig.model_validate({"rounds": 100} | rules)
        assert find_stop(config, 1, 10, [{"rougeL": 0.6}, {"rougeL": 0.6}], 0) == reason
        rules.pop(key, None)


def test_the_test_set_is_not_among_the_arguments() -> None:
    known = ["stopping", "rounds", "labels", "dev_scores", "selectable", "bought", "count"]
    known += ["audited"]
    assert list(inspect.signature(find_stop).parameters) == known


@settings(deadline=None)
@given(
    scores=st.lists(st.integers(0, 20), max_size=8),
    patience=st.integers(1, 4),
    min_delta=st.integers(0, 4),
    target=st.none() | st.integers(0, 20),
    rounds=st.integers(1, 9),
    budget=st.none() | st.integers(1, 90),
    labels=st.integers(0, 100),
    selectable=st.integers(0, 3),
    with_plateau=st.booleans(),
)
def test_a_run_ends_when_a_rule_holds_and_never_before(
    scores: list[int],
    patience: int,
    min_delta: int,
    target: int | None,
    rounds: int,
    budget: int | None,
    labels: int,
    selectable: int,
    with_plateau: bool,
) -> None:
    # In 64ths, so that sums and differences are exact.
    config = StoppingConfig.model_validate(
        {
            "rounds": rounds,
            "labels": budget,
            "plateau": {"patience": patience, "min_delta": min_delta / 64}
            if with_plateau
            else None,
            "dev_target": {} if target is None else {"rougeL": target / 64},
        }
    )
    dev_scores = [{"rougeL": score / 64} for score in scores]
    reason = find_stop(config, len(scores), labels, dev_scores, selectable)

    before = scores[: max(0, len(scores) - patience)]
    risen = (
        any(score - max(before) >= max(min_delta, 1) for score in scores[len(before) :])
        if before
        else True
    )
    holds = {
        "dev target reached": target is not None and bool(scores) and scores[-1] >= target,
        PLATEAU: with_plateau and not risen,
        "label budget spent": budget is not None and labels >= budget,
        "all rounds done": len(scores) >= rounds,
        "pool exhausted": selectable == 0,
    }
    assert reason == next((rule for rule, held in holds.items() if held), None)


def gain(curve: list[float], per_dollar: float, **more: Any) -> str | None:
    config = StoppingConfig.model_validate(
        {"rounds": 100, "gain": {"per_dollar": per_dollar} | more}
    )
    bought = [(10 * at, 5.0 * at) for at in range(1, len(curve) + 1)]
    scores = [{"rougeL": score} for score in curve]
    return find_stop(config, len(curve), 10 * len(curve), scores, 99, bought, 10)


def test_a_flat_curve_is_not_worth_its_price_and_a_rising_one_is() -> None:
    flat = gain([0.30, 0.40, 0.401, 0.402, 0.402], 0.002)
    assert flat is not None
    assert flat.startswith("predicted gain: the next 10 labels would better rougeL by 0.00")
    assert "for 5.00 dollars, under 0.002 a dollar" in flat
    assert gain([0.10, 0.20, 0.29, 0.37, 0.44], 0.002) is None


def test_a_metric_that_falls_as_it_gets_better() -> None:
    worse, better = [0.1, 0.2, 0.29, 0.37, 0.44], [0.44, 0.34, 0.26, 0.19, 0.13]
    config = StoppingConfig.model_validate(
        {"rounds": 9, "gain": {"per_dollar": 0.002, "metric": "repetition"}}
    )
    bought = [(10 * at, 5.0 * at) for at in range(1, 6)]
    stops = [
        find_stop(config, 5, 50, [{"repetition": score} for score in row], 99, bought, 10)
        for row in (worse, better)
    ]
    assert stops[0] is not None
    assert stops[1] is None


def test_predicted_gain_needs_a_curve_and_a_price() -> None:
    assert gain([0.4, 0.4, 0.4], 0.5) is None
    config = StoppingConfig.model_validate({"rounds": 9, "gain": {"per_dollar": 0.5}})
    free = [(10 * at, 0.0) for at in range(1, 6)]
    assert find_stop(config, 5, 50, [{"rougeL": 0.4}] * 5, 99, free, 10) is None
    priced = StoppingConfig.model_validate(
        {"rounds": 9, "gain": {"per_dollar": 0.5, "dollars_per_label": 1.0}}
    )
    assert find_stop(priced, 5, 50, [{"rougeL": 0.4}] * 5, 99, free, 10) is not None


def test_more_certainty_is_slower_to_stop() -> None:
    noisy = [0.30, 0.42, 0.37, 0.43, 0.40]
    assert gain(noisy, 0.004, certainty=0.1) is not None
    assert gain(noisy, 0.004, certainty=1.0) is None


def audited(error: float, **sure: float) -> AuditedScores:
    """Scores of an audit: the sure bounds of the last round, and one error for every difference."""
    return AuditedScores(sure, lambda metric, first, second: error)


def test_an_audited_target_is_reached_by_the_whole_interval() -> None:
    config = StoppingConfig(dev_target={"rougeL": 0.5})
    scores = [{"rougeL": 0.6}]
    assert find_stop(config, 1, 9, scores, 9, audited=audited(0.1, rougeL=0.49)) is None
    reason = find_stop(config, 1, 9, scores, 9, audited=audited(0.1, rougeL=0.5))
    assert reason == "audit target reached"


def test_of_an_audited_loss_the_upper_bound_counts() -> None:
    config = StoppingConfig(dev_target={"nll": 1.0})
    scores = [{"nll": 0.8}]
    assert find_stop(config, 1, 9, scores, 9, audited=audited(0.1, nll=1.1)) is None
    assert find_stop(config, 1, 9, scores, 9, audited=audited(0.1, nll=1.0)) is not None


@pytest.mark.parametrize(("error", "ends"), [(0.02, False), (0.05, True)])
def test_a_rise_within_its_standard_error_is_a_plateau(error: float, ends: bool) -> None:
    config = StoppingConfig(plateau=PlateauConfig(patience=1))
    scores = [{"rougeL": 0.5}, {"rougeL": 0.54}]
    reason = find_stop(config, 2, 9, scores, 9, audited=audited(error, rougeL=0.4))
    assert reason == ("plateau: rougeL as audited no longer rises" if ends else None)


def test_a_falling_loss_is_a_gain() -> None:
    config = StoppingConfig(plateau=PlateauConfig(metric="nll", patience=1))
    assert find_stop(config, 2, 9, [{"nll": 2.0}, {"nll": 1.5}], 9) is None
    stopped = find_stop(config, 2, 9, [{"nll": 1.5}, {"nll": 1.5}], 9)
    assert stopped == "plateau: nll on the dev split no longer falls"


def test_the_noise_of_an_audit_widens_a_forecast() -> None:
    labels, scores = [10, 20, 40, 80, 160], [0.3, 0.4, 0.47, 0.52, 0.55]
    sure = predict_gain(labels, scores, 160)
    noisy = predict_gain(labels, scores, 160, noise=0.1)
    assert sure is not None
    assert noisy is not None
    assert noisy.expected.std() > 3 * sure.expected.std()
