"""The `kmeans` strategy divides the pool into as many clusters as examples are asked for and picks
the most central one of each.
"""

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
    """Score: the cluster's share of the pool, less the number of its members that are more central.

    So the candidate nearest to the centre of every cluster comes first, large clusters first, then
    the second nearest.
    """
    usable, vectors, _ = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    labels = cluster(vectors, count, derive_seed("kmeans", candidates.seed, candidates.round))
    similar = similarity_to_centers(vectors, labels)
    share = np.bincount(labels)[labels] / len(labels)
    score = share - rank_in_groups(labels, similar)
    columns = np.full((4, len(candidates.ids)), np.nan)
    columns[:, usable] = score, labels, share, 1 - similar
    parts = {"cluster": columns[1], "cluster_share": columns[2], "distance": columns[3]}
    return Scores(columns[0], parts)


KMEANS = Strategy(
    "kmeans",
    needs=frozenset({"embeddings"}),
    parameters=KmeansParameters,
    select=_select,
    title="Cluster centres",
    why="The pool was divided into as many clusters as there are picks, and each cluster gave the "
    "example nearest to its centre. The batch represents the pool; existing labels are ignored.",
    score="Share of the pool in the example's cluster, minus 1 for each example of the cluster "
    "that came before it; larger clusters come first.",
    parts={
        "cluster": "Number of the cluster that the example belongs to.",
        "cluster_share": "Share of the pool in that cluster, from 0 to 1.",
        "distance": "Cosine distance to the centre of the cluster; 0 is the most typical.",
    },
)
