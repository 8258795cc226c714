"""Jensen-Shannon divergence between distributions."""

import numpy as np

from atgen_ray.core.arrays import Numbers
from atgen_ray.selection.kernels.similarity import rows_within


def mean_divergence(shares: Numbers, others: Numbers, megabytes: int) -> Numbers:
    """Return the mean Jensen-Shannon divergence in nats of each row of `shares` (n, c) from the
    rows of `others` (m, c), m > 0; shape (n,).

    Rows sum to 1. JSD(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2, from 0 to log 2.
    """
    step = rows_within(max(1, megabytes // 3), len(others))
    mixed = np.concatenate(
        [
            _mixed_entropy(shares[start : start + step], others)
            for start in range(0, len(shares), step)
        ]
    )
    return np.asarray(np.maximum(mixed - (_entropy(shares) + _entropy(others).mean()) / 2, 0.0))


def _mixed_entropy(shares: Numbers, others: Numbers) -> Numbers:
    from scipy.special import xlogy

    total = np.zeros((len(shares), len(others)))
    for column in range(shares.shape[1]):
        mixed = (shares[:, column, None] + others[None, :, column]) / 2
        total -= xlogy(mixed, mixed)
    return np.asarray(total.mean(axis=1))


def _entropy(shares: Numbers) -> Numbers:
    from scipy.special import xlogy

    return np.asarray(-xlogy(shares, shares).sum(axis=1))
