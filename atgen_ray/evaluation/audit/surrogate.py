"""What the first labels of an audit say of where scores vary: strata for the second draw.

A surrogate predicts the score of an example from its group and features: ridge regression, whose
penalty has the least leave-one-out error. One raw signal, such as the likelihood of an output, is
never trusted by itself. Where the surrogate predicts no better than the mean, the groups are the
strata.
"""

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers

PENALTIES = np.geomspace(1e-1, 1e4, 11)
PER_STRATUM = 6  # labels of the second draw for each stratum
MOST_STRATA = 8
BELIEF = 4.0  # labels that the common variance counts for, beside those of a stratum
LEAST_GAIN = 0.05  # share of the variance that a surrogate must explain, left-out labels only


def plan_second(
    groups: Integers,
    features: Numbers,
    rest: Integers,
    places: Integers,
    values: Numbers,
    count: int,
) -> tuple[Integers, Numbers]:
    """Return the stratum, from 0, of each example of `rest`, and the expected standard deviation
    of the scores in each.

    Args:
        groups: strata of all examples, from 0 (N,).
        features: of all examples (N, d).
        rest, places: which examples may be drawn (M,), and which have `values` (n,).
        count: labels to come.
    """
    strata = groups
    of = groups[places]
    if len(values) > 2 and np.ptp(values) > 0:
        predicted, left_out, gain = _predict(groups, features, places, values)
        if gain > LEAST_GAIN:
            most = int(np.clip(count // PER_STRATUM, 1, MOST_STRATA))
            cuts = np.unique(np.quantile(predicted[rest], np.arange(1, most) / most))
            strata = np.searchsorted(cuts, predicted, side="right")
            of = np.searchsorted(cuts, left_out, side="right")
    names, inverse = np.unique(strata[rest], return_inverse=True)
    spreads = np.array([_expect_spread(values, of == name) for name in names])
    return inverse.astype(np.int64), spreads


def _expect_spread(values: Numbers, inside: np.ndarray) -> float:
    """Return the standard deviation of the values `inside`, drawn towards that of all."""
    common = values.var(ddof=1) if len(values) > 1 else 0.0
    here = values[inside]
    squares = float(((here - here.mean()) ** 2).sum()) if len(here) else 0.0
    return float(np.sqrt((squares + BELIEF * common) / (max(len(here) - 1, 0) + BELIEF)))


def _predict(
    groups: Integers, features: Numbers, places: Integers, values: Numbers
) -> tuple[Numbers, Numbers, float]:
    """Return the predictions for all examples (N,), those for `places` by the other labels alone
    (n,), and the share of the variance that these explain.
    """
    columns = np.hstack([np.eye(groups.max() + 1)[groups], features.astype(np.float64)])
    columns = columns - columns.mean(axis=0)
    scale = columns.std(axis=0)
    columns = columns[:, scale > 0] / scale[scale > 0]
    if not columns.shape[1]:
        return np.full(len(groups), values.mean()), np.full(len(values), values.mean()), 0.0
    middle = columns[places].mean(axis=0)
    known = columns[places] - middle
    left, singular, right = np.linalg.svd(known, full_matrices=False)
    centred = values - values.mean()
    best = (np.inf, PENALTIES[-1], centred)
    for penalty in PENALTIES:
        shrink = singular**2 / (singular**2 + penalty)
        fitted = left @ (shrink * (left.T @ centred))
        # The mean is left out with the label, hence the 1 / n.
        leverage = (left**2) @ shrink + 1 / len(values)
        residuals = (centred - fitted) / np.maximum(1 - leverage, 1e-6)
        best = min(best, (float(residuals @ residuals), penalty, residuals), key=lambda of: of[0])
    error, penalty, residuals = best
    weights = right.T @ (singular / (singular**2 + penalty) * (left.T @ centred))
    alone = centred * len(values) / (len(values) - 1)  # residuals of the mean of the others
    gain = 1 - error / float(alone @ alone)
    return (columns - middle) @ weights + values.mean(), values - residuals, gain
