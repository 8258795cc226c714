"""The `typiclust` strategy picks the most typical examples of regions without labels; it is made
for small budgets.
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
    """Score: the cluster's share, less the labels in it and the number of its members that are more
    typical.

    So the clusters take turns with their most typical candidate, those with fewest labels first,
    then the largest. Pool and labelled examples are clustered together. Typicality is 1 / mean
    distance to the nearest neighbours in the cluster.
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    together = np.concatenate([vectors, labeled])
    # One cluster for each label and pick, so that enough clusters have no label yet.
    clusters = min(parameters.max_clusters, len(labeled) + count)
    every = cluster(together, clusters, derive_seed("typiclust", candidates.seed, candidates.round))
    typicality = _typicality(together, every, parameters.neighbors, parameters.memory_mb)[
        : len(vectors)
    ]
    labels = every[: len(vectors)]
    taken = np.bincount(every[len(vectors) :], minlength=every.max() + 1)
    share = np.bincount(every)[labels] / len(every)
    score = share - taken[labels] - rank_in_groups(labels, typicality)
    columns = np.full((5, len(candidates.ids)), np.nan)
    columns[:, usable] = score, labels, share, typicality, taken[labels]
    parts = {
        "cluster": columns[1],
        "cluster_share": columns[2],
        "typicality": columns[3],
        "labels_in_cluster": columns[4],
    }
    return Scores(columns[0], parts)


def _typicality(vectors: Vectors, labels: Integers, neighbors: int, megabytes: int) -> Numbers:
    """Return 1 / mean Euclidean distance to the nearest neighbours in the cluster, (n,); 1024 when
    all distances are 0.
    """
    typicality = np.empty(len(vectors))
    for members in group(labels):
        _, similarities = find_neighbors(vectors[members], neighbors + 1, megabytes)
        distances = np.sqrt(np.maximum(2 - 2 * similarities[:, 1:].astype(np.float64), 0))
        mean = distances.mean(axis=1) if distances.shape[1] else np.zeros(len(members))
        # Similarities are multiples of 2^-20, so a smaller distance is not resolved.
        typicality[members] = 1 / np.maximum(mean, 2.0**-10)
    return typicality


TYPICLUST = Strategy(
    "typiclust",
    needs=frozenset({"embeddings"}),
    parameters=TypiclustParameters,
    select=_select,
    title="Typical examples of unlabelled regions",
    why="The pool was divided into clusters, and each pick is the most typical example of a "
    "cluster that has few or no labels. This suits small budgets.",
    score="Share of the pool in the example's cluster, minus the labels in that cluster and minus "
    "1 for each of its examples that came before; larger was picked first.",
    parts={
        "cluster": "Number of the cluster that the example belongs to.",
        "cluster_share": "Share of the pool and the labels in that cluster, from 0 to 1.",
        "typicality": "1 divided by the mean distance to the nearest neighbours in the cluster; "
        "larger is more typical.",
        "labels_in_cluster": "How many labelled examples the cluster holds.",
    },
)
