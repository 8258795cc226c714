"""The score of a model from an audit, with its confidence interval.

Each phase gives an unbiased estimate: the first of the frame by its strata, the second one of what
the first had left, to which the first is added. Given the first, the second is right in the mean
whatever it planned, so the two are uncorrelated, and their mean with weights that were fixed before
(the numbers of draws) is unbiased, too; its variance is the sum of both.

Intervals of scores with bounds are those of Korn and Graubard (1998), which are never outside the
bounds and hold where failures are rare: the binomial interval of Clopper and Pearson (1934) for the
number of labels that a simple random sample would have needed. Other intervals are Student's, with
the degrees of freedom of Satterthwaite (1946); of the logarithm where values are above 0 without
an upper bound, for these are skewed.
"""

from dataclasses import dataclass

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers
from atgen_ray.evaluation.audit.design import FIRST, AuditSample

# A stratum of few labels shows its variance badly: that of the phase counts as one label more.
BELIEF = 1.0
# Strata are not believed to save more than this share of the variance, for chance shows it, too.
LEAST_VARIANCE = 0.3


@dataclass(frozen=True)
class AuditScore:
    """The mean over the pool as estimated, the bounds of its interval, the labels that it rests
    on, and its standard error.
    """

    mean: float
    low: float
    high: float
    count: int
    error: float


def estimate_mean(
    sample: AuditSample,
    values: Numbers,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> AuditScore | None:
    """Return the mean of the values over the frame that was sampled; None without any value.

    Args:
        values: of the examples of the sample (n,). NaN is for those without a value, for want of a
            label or because the metric cannot judge them: they count as the others of their
            stratum.
        bounds: the least and the largest value that there can be; None where there are none.
    """
    known = ~np.isnan(values)
    if not known.any():
        return None
    values = values[known]
    if bounds is not None and (values.min() < bounds[0] or values.max() > bounds[1]):
        bounds = None  # a metric that does not keep to its word
    # Without a label of the second phase, as when a budget ran out, the first stands alone.
    first = sample.phases == FIRST
    share = float(first.mean()) if (known & ~first).any() else 1.0
    frame = _measure_frame(sample, first)
    weights, terms = _weigh(sample, known, values, share, frame)
    mean = float(weights @ values)
    count = len(values)
    spread = float(weights @ (values - mean) ** 2) * count / max(count - 1, 1)
    variance = sum(term for term, _ in terms)
    variance = max(variance, LEAST_VARIANCE * spread / count * max(0.0, 1 - count / frame))
    if np.ptp(values) == 0:  # sums of weights are not exact
        mean, variance = float(values[0]), 0.0
    squares = sum(term**2 / freedom for term, freedom in terms)
    freedom = float(np.clip(variance**2 / squares if squares > 0 else count - 1, 1, max(count, 2)))
    error = float(np.sqrt(variance))
    if count >= frame:
        low = high = mean  # all of it is labelled
    elif bounds is None or not np.isfinite(bounds).all():
        from scipy.special import stdtrit

        half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
        low, high = (mean - half, mean + half) if count > 1 else (-np.inf, np.inf)
        if bounds is not None and bounds[0] == 0 and mean > 0 and count > 1:
            low, high = mean * np.exp(-half / mean), mean * np.exp(half / mean)
    else:
        effective = 1 / float(weights @ weights)
        low, high = _bound(mean, variance, freedom, count, effective, bounds, confidence)
    return AuditScore(mean, float(low), float(high), count, error)


def _measure_frame(sample: AuditSample, first: np.ndarray) -> int:
    """Return the number of examples of the frame: the strata of the first phase together."""
    _, at = np.unique(sample.strata[first], return_index=True)
    return int(sample.sizes[first][at].sum())


def _weigh(
    sample: AuditSample, known: np.ndarray, values: Numbers, share: float, frame: int
) -> tuple[Numbers, list[tuple[float, float]]]:
    """Return the weight of each value, which together are 1, and of each stratum the variance
    that it adds, with its degrees of freedom. `share` is the weight of the first phase.
    """
    weights = np.zeros(len(values))
    terms: list[tuple[float, float]] = []
    phases, strata, sizes = sample.phases[known], sample.strata[known], sample.sizes[known]
    first = phases == FIRST
    drawn = int((sample.phases == FIRST).sum())
    for inside, part in ((first, share), (~first, 1 - share)):
        if part == 0 or not inside.any():
            continue
        at = np.flatnonzero(inside)
        names, of, counts = np.unique(strata[at], return_inverse=True, return_counts=True)
        size = np.zeros(len(names))
        size[of] = sizes[at]
        whole = frame if part == share and inside is first else frame - drawn
        # What strata without a value stand for is shared by the others.
        cover = size / size.sum() * whole / frame
        weights[at] += part * (cover / counts)[of]
        variances = _find_variances(values[at], of, counts)
        rest = np.maximum(0.0, 1 - counts / size)
        added = part**2 * cover**2 * rest * variances / counts
        terms += zip(added.tolist(), (counts - 1 + BELIEF).tolist(), strict=True)
    if share < 1:
        # The second phase knows what the first had: as much of the frame as was drawn.
        if first.any():
            weights[first] += (1 - share) * drawn / frame / first.sum()
        weights /= weights.sum()
    return weights, terms


def _find_variances(values: Numbers, of: Integers, counts: Integers) -> Numbers:
    """Return the variance in each stratum, drawn a little towards that of all."""
    means = np.bincount(of, values) / counts
    squares = np.bincount(of, (values - means[of]) ** 2)
    common = float(values.var(ddof=1)) if len(values) > 1 else 0.0
    found: Numbers = (squares + BELIEF * common) / (counts - 1 + BELIEF)
    return found


def _bound(
    mean: float,
    variance: float,
    freedom: float,
    count: int,
    effective: float,
    bounds: tuple[float, float],
    confidence: float,
) -> tuple[float, float]:
    """Return the interval of Korn and Graubard; `effective` is how many labels of equal weight
    tell as much, where the values do not vary.
    """
    from scipy.special import betaincinv, stdtrit

    least, largest = bounds
    width = largest - least
    share = float(np.clip((mean - least) / width, 0.0, 1.0))
    tail = (1 - confidence) / 2
    if variance > 0:
        student = stdtrit(max(count - 1, 1), 1 - tail) / stdtrit(freedom, 1 - tail)
        effective = share * (1 - share) * width**2 / variance * student**2
    effective = max(effective, 1.0)
    hits = effective * share
    low = 0.0 if hits <= 0 else float(betaincinv(hits, effective - hits + 1, tail))
    high = 1.0 if hits >= effective else float(betaincinv(hits + 1, effective - hits, 1 - tail))
    return least + width * min(low, share), least + width * max(high, share)
