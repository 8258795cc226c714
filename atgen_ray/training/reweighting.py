"""Weights of labels in the loss, which correct the bias of selection."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.selection import Embeddings
from atgen_ray.selection.kernels.mean_matching import find_width, match_means

SAMPLED = 2000  # examples of the pool whose mean is matched


def sample_pool(ids: pa.ChunkedArray) -> list[str]:
    """Return the `ids` of the pool, or some of them whose mean stands for all."""
    order = pc.sort_indices(ids)[:: max(1, len(ids) // SAMPLED)]
    sampled: list[str] = ids.take(order).to_pylist()
    return sampled


def weigh_examples(
    ids: Sequence[str], sampled: Sequence[str], embeddings: Embeddings, largest: float
) -> dict[str, float]:
    """Return a weight for each labelled example, with mean 1, so that the weighted embeddings are
    distributed like those of `sample_pool`.

    An example whose embedding is not finite has weight 1. For `largest` see `match_means`.
    """
    labeled = np.asarray(embeddings.take(tuple(ids)), np.float64)
    sample = np.asarray(embeddings.take(tuple(sampled)), np.float64)
    usable = np.isfinite(labeled).all(axis=1)
    sample = sample[np.isfinite(sample).all(axis=1)]
    weights = np.ones(len(ids))
    if usable.any() and len(sample):
        weights[usable] = match_means(labeled[usable], sample, find_width(sample), largest)
    return dict(zip(ids, weights.tolist(), strict=True))
