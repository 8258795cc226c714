"""Bootstrap confidence intervals of a mean (Efron 1979), the one implementation of the project.

Intervals depend on the values, their order and the seed alone: how the resamples are batched in
memory changes no number. Callers decide what to do with values that do not vary, for which there is
nothing to resample.
"""

from typing import Literal

import numpy as np

from atgen_ray.core.arrays import Numbers

BATCH_VALUES = 2**22  # resampled values held at once: 32 MB


def bootstrap_mean(
    values: Numbers,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: Literal["percentile", "BCa"] = "percentile",
) -> tuple[float, float]:
    """Return the lower and the upper bound of the interval of the mean of `values`.

    `percentile` is Efron and Tibshirani (1993), chapter 13; `BCa`, corrected for bias and
    acceleration, is Efron (1987).

    Args:
        values: at least two, shape (n,), float64.

    Example:
        bootstrap_mean(np.array([0.2, 0.4, 0.9]), resamples=1000)
    """
    from scipy.stats import bootstrap

    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // len(values)),
        confidence_level=confidence,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def bootstrap_shift(
    first: Numbers,
    second: Numbers,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bounds of the interval of the mean of `second` minus that of `first`, two
    independent samples of at least two values each.

    It is the expanded percentile interval (Hesterberg, 2015), which is wider for small samples, as
    Student's is.
    """
    from scipy.stats import bootstrap, norm, t

    least = min(len(first), len(second))
    quantile = t.ppf((1 + confidence) / 2, least - 1) * np.sqrt(least / (least - 1))
    interval = bootstrap(
        (first, second),
        lambda one, other, axis: np.mean(other, axis=axis) - np.mean(one, axis=axis),
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // max(len(first), len(second))),
        confidence_level=float(2 * norm.cdf(quantile) - 1),
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
