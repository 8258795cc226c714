"""Clusters of unit vectors."""

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.similarity import center, compare, rows_within

FITTED = 20_000  # vectors that k-means is fitted to, or 50 for every cluster if that is more
_BLOCK_MB = 64


def cluster(vectors: Vectors, clusters: int, seed: int) -> Integers:
    """Return the k-means cluster of each of `vectors` (n, d), quantised, n > 0; shape (n,).

    There are at most as many clusters as different vectors. Of a large pool only a seeded sample is
    clustered, and every vector joins the most similar centre.
    """
    clusters = min(clusters, len(vectors))
    fitted = max(FITTED, 50 * clusters)
    if len(vectors) > fitted:
        sample = np.sort(np.random.default_rng(seed).choice(len(vectors), fitted, replace=False))
        labels = cluster(vectors[sample], clusters, seed)
        centers = np.stack(
            [center(vectors[sample[labels == label]]) for label in np.unique(labels)]
        )
        return assign(vectors, centers)
    clusters = min(clusters, len(np.unique(vectors, axis=0)))
    if clusters == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    from sklearn.cluster import KMeans

    labels = KMeans(clusters, n_init=1, random_state=seed).fit_predict(vectors)
    return np.asarray(labels, dtype=np.int64)


def assign(vectors: Vectors, centers: Vectors) -> Integers:
    """Return the most similar of `centers` (c, d) for each of `vectors` (n, d), both quantised; the
    first of equal ones. Shape (n,).
    """
    step = rows_within(_BLOCK_MB, len(centers))
    blocks = [
        compare(vectors[start : start + step], centers) for start in range(0, len(vectors), step)
    ]
    return np.concatenate([block.argmax(axis=1) for block in blocks])


def similarity_to_centers(vectors: Vectors, labels: Integers) -> Numbers:
    """Return the cosine similarity of each of `vectors` (n, d), quantised, to the centre of its
    cluster, shape (n,).
    """
    similarities = np.empty(len(vectors))
    for members in group(labels):
        similarities[members] = compare(vectors[members], center(vectors[members])[None])[:, 0]
    return similarities


def distance_to_centers(vectors: Vectors, labels: Integers) -> Numbers:
    """Return the cosine distance (0 to 2) of each of `vectors` (n, d), quantised, to the centre of
    its cluster, shape (n,).
    """
    return np.asarray(1 - similarity_to_centers(vectors, labels))


def group(labels: Integers) -> list[Integers]:
    """Return the rows of every label that occurs, in ascending order of label and row."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(labels) else []


def rank_in_groups(labels: Integers, values: Numbers) -> Integers:
    """Return the rank of each row among the rows of its label, from 0, by descending value; equal
    values by row. Shape (n,).
    """
    order = np.lexsort((-values, labels))  # a stable sort: equal values keep the order of rows
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[:1]] - 1))
    sizes = np.diff(np.append(starts, len(labels)))
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return ranks
