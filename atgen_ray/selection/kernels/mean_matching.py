"""Comparison (maximum mean discrepancy) and matching (kernel mean matching) of two sets of vectors
by their means in the space of a Gaussian kernel.
"""

import numpy as np

from atgen_ray.core.arrays import Numbers


def find_width(vectors: Numbers) -> float:
    """Return the median distance between two of `vectors` (n, d), the usual width of the kernel; 1
    if that is 0.
    """
    from scipy.spatial.distance import pdist

    distances = pdist(vectors) if len(vectors) > 1 else np.zeros(1)
    return float(np.median(distances)) or 1.0


def compare_kernel(one: Numbers, other: Numbers, width: float) -> Numbers:
    """Return exp(-|x - y|^2 / (2 width^2)), (n, m), for x in `one` (n, d), y in `other` (m, d)."""
    from sklearn.metrics.pairwise import rbf_kernel

    values: Numbers = rbf_kernel(one, other, gamma=1 / (2 * width**2))
    return values


def measure_discrepancy(
    one: Numbers, other: Numbers, width: float, weights: Numbers | None = None
) -> float:
    """Return the squared maximum mean discrepancy of both sets, the biased estimate (Gretton et al.
    2012, JMLR 13:723, equation 5).

    `weights` (n,) of the rows of `one` count relative to their sum.
    """
    shares = np.full(len(one), 1 / len(one)) if weights is None else weights / weights.sum()
    within = shares @ compare_kernel(one, one, width) @ shares
    across = shares @ compare_kernel(one, other, width).mean(axis=1)
    return max(0.0, float(within - 2 * across + compare_kernel(other, other, width).mean()))


def match_means(one: Numbers, other: Numbers, width: float, largest: float) -> Numbers:
    """Return weights (n,) of the rows of `one`, of mean 1, that bring its kernel mean close to that
    of `other`.

    Kernel mean matching (Huang et al. 2006, Correcting sample selection bias by unlabeled data),
    with each weight between 1 / `largest` and `largest` before the mean is set to 1.
    """
    from scipy.optimize import lsq_linear

    size = len(one)
    # |A w - b|^2 is the discrepancy but for a constant, A'A being the kernel matrix.
    kernel = compare_kernel(one, one, width) + 1e-6 * np.eye(size)
    factor = np.linalg.cholesky(kernel).T
    target = np.linalg.solve(factor.T, size * compare_kernel(one, other, width).mean(axis=1))
    weights: Numbers = lsq_linear(factor, target, bounds=(1 / largest, largest)).x
    return weights / weights.mean()
