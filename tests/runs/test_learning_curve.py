"""A learning curve continued: what is fitted, and how sure it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from atgen_ray.runs.learning_curve import PowerLaw, fit_power_law, predict_gain

LABELS = [0, 10, 20, 40, 80, 160]


@given(st.floats(0.3, 0.9), st.floats(0.05, 0.5), st.floats(0.1, 1.5))
def test_a_power_law_is_found_again(limit: float, drop: float, exponent: float) -> None:
    law = PowerLaw(limit, drop, exponent)
    found = fit_power_law(LABELS, law.predict(LABELS))
    assert found.predict([320]) == pytest.approx(law.predict([320]), abs=1e-3)


def test_it_is_the_fit_of_scipys_general_routine() -> None:
    scores = np.array([0.10, 0.31, 0.35, 0.41, 0.43, 0.46])
    found = fit_power_law(LABELS, scores)
    (limit, drop, exponent), _ = curve_fit(
        lambda n, a, b, c: a - b * (n + 1) ** -c,
        LABELS,
        scores,
        p0=[0.5, 0.4, 0.5],
        bounds=([-1, 0, 0.05], [2, 9, 2]),
    )
    assert found.predict([320]) == pytest.approx([limit - drop * 321**-exponent], abs=2e-3)


def test_a_falling_curve_promises_nothing() -> None:
    law = fit_power_law(LABELS, [0.5, 0.4, 0.4, 0.3, 0.3, 0.2])
    assert law.drop == 0
    assert law.predict([1000]) == pytest.approx([np.mean([0.5, 0.4, 0.4, 0.3, 0.3, 0.2])])


def test_a_curve_that_falls_for_certain_certainly_promises_little() -> None:
    gain = predict_gain(LABELS, [0.5, 0.44, 0.38, 0.33, 0.27, 0.22], 40)
    assert gain is not None
    assert gain.expected.max() < 0.02


def test_a_noisy_curve_is_less_sure_than_a_smooth_one() -> None:
    law = PowerLaw(0.6, 0.4, 0.5)
    smooth = law.predict(LABELS)
    noisy = smooth + np.array([0.03, -0.04, 0.05, -0.03, 0.04, -0.05])
    true = float(np.diff(law.predict([160, 200]))[0])
    sure, unsure = (predict_gain(LABELS, each.tolist(), 40) for each in (smooth, noisy))
    assert sure is not None
    assert unsure is not None
    assert sure.expected.mean() == pytest.approx(true, rel=0.05)
    assert unsure.expected.std() > 10 * sure.expected.std()
    assert unsure.observed.std() > 10 * sure.observed.std()
    again = predict_gain(LABELS, noisy.tolist(), 40)
    assert again is not None
    assert np.array_equal(unsure.expected, again.expected)


@pytest.mark.parametrize("points", [4, 8])
def test_nine_of_ten_gains_lie_in_their_interval_of_nine_tenths(points: int) -> None:
    rng = np.random.default_rng(points)
    labels = 10.0 * np.arange(points + 1)
    promised: list[bool] = []
    measured: list[bool] = []
    for seed in range(100):
        law = PowerLaw(rng.uniform(0.3, 0.9), rng.uniform(0.05, 0.5), rng.uniform(0.1, 1.5))
        scores = law.predict(labels) + rng.normal(0, rng.choice([0.005, 0.02, 0.04]), points + 1)
        gain = predict_gain(list(labels[:-1]), list(scores[:-1]), 10, seed)
        assert gain is not None
        for held, draws, found in (
            (promised, gain.expected, np.diff(law.predict(labels[-2:]))[0]),
            (measured, gain.observed, scores[-1] - scores[-2]),
        ):
            low, high = np.quantile(draws, [0.05, 0.95])
            held.append(low <= found <= high)
    # Of 100 with a chance of 0.9 each, 83 to 97 are drawn in 97 of 100 cases; a law that cannot
    # fall is held oftener.
    assert 0.83 <= np.mean(measured) <= 0.97
    assert np.mean(promised) >= 0.83


def test_three_points_say_nothing() -> None:
    assert predict_gain([0, 10, 20], [0.1, 0.2, 0.3], 10) is None
    with pytest.raises(ValueError, match="two or more"):
        fit_power_law([10], [0.5])
