"""Weights of labels in the loss, which correct the bias of selection."""

from collections.abc import Sequence

import numpy as np

from atgen_ray.selection import Embeddings
from atgen_ray.selection.kernels.mean_matching import find_width, match_means

SAMPLED = 2000  # examples of the pool whose mean is matched


def weigh_examples(
    ids: Sequence[str], pool: Sequence[str], embeddings: Embeddings, largest: float
) -> dict[str, float]:
    """Return a weight for each labelled example, with mean 1, so that the weighted embeddings are
    distributed like the pool's.

    An example whose embedding is not finite has weight 1. For `largest` see `match_means`.
    """
    step = max(1, len(pool) // SAMPLED)
    sampled = sorted(pool)[::step]
    labeled = np.asarray(embeddings.take(tuple(ids)), np.float64)
    sample = np.asarray(embeddings.take(tuple(sampled)), np.float64)
    usable = np.isfinite(labeled).all(axis=1)
    sample = sample[np.isfinite(sample).all(axis=1)]
    weights = np.ones(len(ids))
    if usable.any() and len(sample):
        weights[usable] = match_means(labeled[usable], sample, find_width(sample), largest)
    return dict(zip(ids, weights.tolist(), strict=True))
