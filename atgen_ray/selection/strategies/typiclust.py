"""The `typiclust` strategy: the most typical examples of regions without labels, for small
budgets.
"""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.clusters import cluster, group, rank_in_groups
from atgen_ray.selection.kernels.draws import derive_seed
from atgen_ray.selection.kernels.neighbors import find_neighbors
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Scores, Strategy
from atgen_ray.selection.vectors import quantised_vectors


class TypiclustParameters(Parameters):
    """Typical clustering (Hacohen, Dekel and Weinshall, ICML 2022, arXiv 2202.02794)."""

    neighbors: PositiveInt = Field(
        20, description="Neighbours within the cluster that typicality is measured by"
    )
    max_clusters: PositiveInt = Field(
        500, description="Most clusters; else as many as labels and picks together"
    )
    memory_mb: PositiveInt = Field(256, description="Largest block of similarities in MB")


def _select(candidates: Candidates, parameters: TypiclustParameters, count: int) -> Scores | Picks:
    """By turns the most typical candidate of each cluster: those with fewest labels first, then the
    largest.

    Pool and labelled examples are clustered together. Typicality is 1 / mean distance to the
    nearest neighbours in the cluster. Score: the cluster's share, less the labels in it and the
    number of its members that come before.
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    together = np.concatenate([vectors, labeled])
    clusters = min(parameters.max_clusters, len(labeled) + count)
    every = cluster(together, clusters, derive_seed("typiclust", candidates.seed, candidates.round))
    typicality = _typicality(together, every, parameters.neighbors, parameters.memory_mb)[
        : len(vectors)
    ]
    labels = every[: len(vectors)]
    taken = np.bincount(every[len(vectors) :], minlength=every.max() + 1)
    share = np.bincount(every)[labels] / len(every)
    found = np.full((5, len(candidates.ids)), np.nan)
    score = share - taken[labels] - rank_in_groups(labels, typicality)
    found[:, usable] = score, labels, share, typicality, taken[labels]
    names = ("cluster", "cluster_share", "typicality", "labels_in_cluster")
    return Scores(found[0], dict(zip(names, found[1:], strict=True)))


def _typicality(vectors: Vectors, labels: Integers, neighbors: int, megabytes: int) -> Numbers:
    """1 / mean Euclidean distance to the nearest neighbours other than itself; the largest there is
    where all are 0.
    """
    typicality = np.empty(len(vectors))
    for members in group(labels):
        _, similarities = find_neighbors(vectors[members], neighbors + 1, megabytes)
        distances = np.sqrt(np.maximum(2 - 2 * similarities[:, 1:].astype(np.float64), 0))
        mean = distances.mean(axis=1) if distances.shape[1] else np.zeros(len(members))
        typicality[members] = 1 / np.maximum(mean, 2.0**-10)  # the grid knows no smaller distance
    return typicality


TYPICLUST = Strategy(
    "typiclust", needs=frozenset({"embeddings"}), parameters=TypiclustParameters, select=_select
)
