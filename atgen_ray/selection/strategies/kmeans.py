"""The `kmeans` strategy: one typical example from each of as many clusters as are picked."""

import numpy as np

from atgen_ray.selection.kernels.clusters import cluster, rank_in_groups, similarity_to_centers
from atgen_ray.selection.kernels.draws import derive_seed
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Scores, Strategy
from atgen_ray.selection.vectors import quantised_vectors


class KmeansParameters(Parameters):
    """k-means on normalised embeddings (BERT-KM; Yuan et al., EMNLP 2020, arXiv 2010.09535).
    Ignores labels.
    """


def _select(candidates: Candidates, parameters: KmeansParameters, count: int) -> Scores | Picks:
    """The candidate nearest to the centre of every cluster, large clusters first; then the second
    nearest.

    Score: the cluster's share of the pool, less the number of its members that come before.
    """
    usable, vectors, _ = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    labels = cluster(vectors, count, derive_seed("kmeans", candidates.seed, candidates.round))
    similar = similarity_to_centers(vectors, labels)
    share = np.bincount(labels)[labels] / len(labels)
    found = np.full((4, len(candidates.ids)), np.nan)
    found[:, usable] = share - rank_in_groups(labels, similar), labels, share, 1 - similar
    return Scores(found[0], {"cluster": found[1], "cluster_share": found[2], "distance": found[3]})


KMEANS = Strategy(
    "kmeans", needs=frozenset({"embeddings"}), parameters=KmeansParameters, select=_select
)
