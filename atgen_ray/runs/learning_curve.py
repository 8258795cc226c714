"""Extrapolation of a learning curve: a power law is fitted to it, and predicts what the next labels
add, with the uncertainty.

Error that falls as a power of the number of examples: Hestness et al. 2017 (arXiv 1712.00409); of
labels bought one batch after another: Figueroa et al. 2012 (BMC Medical Informatics and Decision
Making 12:8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Numbers

PARAMETERS = 3  # of the power law
POINTS = PARAMETERS + 1  # fewest points of a curve that is extrapolated
DRAWS = 100  # of the parametric bootstrap
# Bounds of the exponent.
SLOWEST = 0.05
FASTEST = 2.0


@dataclass(frozen=True)
class PowerLaw:
    """score(n) = limit - drop * (n + 1) ** -exponent; with drop >= 0 it never falls."""

    limit: float
    drop: float
    exponent: float

    def predict(self, labels: npt.ArrayLike) -> Numbers:
        """Return the score at each number of labels."""
        return self.limit - self.drop * (np.asarray(labels, np.float64) + 1) ** -self.exponent


def fit_power_law(
    labels: Sequence[float], scores: npt.ArrayLike, falling: bool = False
) -> PowerLaw:
    """Fit the law to at least two points by least squares; the exponent by scipy.optimize, the rest
    in closed form.

    Unless it may be `falling`, the flat law is the fit to scores that fall.

    Raises:
        ValueError: fewer than two points, or not as many labels as scores.
    """
    from scipy.optimize import minimize_scalar

    places = np.asarray(labels, np.float64) + 1
    values = np.asarray(scores, np.float64)
    if len(places) != len(values) or len(values) < 2:
        raise ValueError(
            f"a curve of {len(places)} places and {len(values)} scores, expected two or more of "
            f"both"
        )

    # For a fixed exponent the law is linear in limit and drop, so only the exponent is searched.
    def solve(exponent: float) -> tuple[PowerLaw, float]:
        basis = places**-exponent
        spread = basis - basis.mean()
        slope = float(spread @ values / (spread @ spread)) if spread @ spread > 0 else 0.0
        drop = -slope if falling else max(0.0, -slope)
        law = PowerLaw(float(values.mean() + drop * basis.mean()), drop, exponent)
        return law, float(np.sum((law.predict(places - 1) - values) ** 2))

    found = minimize_scalar(
        lambda exponent: solve(exponent)[1], bounds=(SLOWEST, FASTEST), method="bounded"
    )
    return solve(float(found.x))[0]


@dataclass(frozen=True)
class Gain:
    """Predicted gain in score from more labels, in the score's units, as draws of shape
    (DRAWS,).
    """

    expected: Numbers  # by the law itself; the stopping rule uses this
    observed: Numbers  # the next score minus the last one, both noisy: comparable with real scores


def predict_gain(
    labels: Sequence[float], scores: Sequence[float], more: float, seed: int = 0, noise: float = 0.0
) -> Gain | None:
    """Return the predicted gain from `more` labels, or None with fewer than `POINTS` points.

    The method is a parametric bootstrap: curves are drawn from the fit with the spread of the
    residuals, and fitted again (Efron and Tibshirani 1993, chapter 6). A few points determine
    that spread badly, so each draw has its own, from the scaled inverse chi-squared distribution
    (Gelman et al. 2013, section 14.2). A curve that is no power law is covered by neither. The
    spread is `noise` at least, the standard deviation that a score is known to have.
    """
    if len(scores) < POINTS:
        return None
    fitted = fit_power_law(labels, scores).predict(labels)
    # The noise is the spread around a law that may fall: a fall of the scores is no noise.
    residuals = np.asarray(scores, np.float64) - fit_power_law(
        labels, scores, falling=True
    ).predict(labels)
    rng = np.random.default_rng(seed)
    spreads = np.sqrt(residuals @ residuals / rng.chisquare(len(scores) - PARAMETERS, DRAWS))
    spreads = np.maximum(spreads, noise)
    errors = rng.normal(size=(DRAWS, len(scores))) * spreads[:, None]
    now = labels[-1]
    drawn = np.array(
        [fit_power_law(labels, fitted + row).predict([now, now + more]) for row in errors]
    )
    measured = drawn[:, 1] + rng.normal(size=DRAWS) * spreads
    return Gain(drawn[:, 1] - drawn[:, 0], measured - scores[-1])
