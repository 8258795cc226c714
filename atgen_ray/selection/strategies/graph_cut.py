"""The `graph_cut` strategy picks examples that are like the pool and unlike each other."""

import numpy as np
from pydantic import Field

from atgen_ray.selection.kernels.similarity import compare, sum_similarities
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import quantised_vectors


class GraphCutParameters(Parameters):
    """Graph cut sum_{i in U, j in S} s_ij - r sum_{i, j in S} s_ij (Iyer and Bilmes, NeurIPS 2013),
    as in submodlib.
    """

    redundancy_weight: float = Field(
        0.5,
        ge=0,
        description="r, the weight of similarity within the batch and to the labelled; monotone "
        "up to 0.5",
    )


def _select(candidates: Candidates, parameters: GraphCutParameters, count: int) -> Picks:
    """Pick greedily by the gain sum_{i in U} s_ij - r (2 sum_{i in S} s_ij + s_jj), where s is the
    cosine similarity.

    U are the candidates and S the labelled examples with the picks before. A pick costs O(n d).
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    density = sum_similarities(vectors, vectors)
    redundancy = sum_similarities(vectors, labeled)
    own = np.any(vectors != 0, axis=1).astype(np.float64)  # s_jj
    count = min(count, len(vectors))
    rows = np.empty(count, dtype=np.int64)
    found = np.empty((3, count))
    for pick in range(count):
        gains = density - parameters.redundancy_weight * (2 * redundancy + own)
        gains[rows[:pick]] = -np.inf
        best = int(gains.argmax())
        rows[pick] = best
        found[:, pick] = (gains[best], density[best], redundancy[best])
        redundancy += compare(vectors[best : best + 1], vectors)[0]
    parts = {"pool_similarity": found[1], "chosen_similarity": found[2]}
    return Picks(pick_ids(candidates.ids, usable[rows]), found[0], parts)


GRAPH_CUT = Strategy(
    "graph_cut",
    needs=frozenset({"embeddings"}),
    parameters=GraphCutParameters,
    select=_select,
    title="Typical but not redundant",
    why="These examples are like many others in the pool, and unlike the labelled examples and "
    "each other.",
    score="Similarity to the pool minus the weighted similarity to what is labelled or already "
    "picked; larger was picked first.",
    parts={
        "pool_similarity": "Cosine similarity to the unlabelled examples, summed; larger is more "
        "typical.",
        "chosen_similarity": "Cosine similarity to the labelled examples and earlier picks, "
        "summed; larger is more redundant.",
    },
    titles={
        "pool_similarity": "similarity to pool",
        "chosen_similarity": "similarity to labels and picks",
    },
)
