"""Clusters of unit vectors."""

import numpy as np

from atgen_ray.selection.kernels import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.similarity import center, compare


def cluster(vectors: Vectors, clusters: int, seed: int) -> Integers:
    """Cluster of each of `vectors` (n, d), n > 0, by k-means; at most as many clusters as distinct vectors."""
    clusters = min(clusters, len(np.unique(vectors, axis=0)))
    if clusters == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    from sklearn.cluster import KMeans

    labels = KMeans(clusters, n_init=1, random_state=seed).fit_predict(vectors)
    return np.asarray(labels, dtype=np.int64)


def distance_to_centers(vectors: Vectors, labels: Integers) -> Numbers:
    """Cosine distance (0 to 2) of each of `vectors` (n, d) on the grid to the centre of its cluster, shape (n,)."""
    distances = np.empty(len(vectors))
    for label in np.unique(labels):
        members = labels == label
        distances[members] = 1 - compare(vectors[members], center(vectors[members])[None])[:, 0]
    return distances
