"""The `idds` strategy picks examples that are like the pool and unlike the labelled ones."""

import numpy as np
from pydantic import Field

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.similarity import compare, sum_similarities
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import quantised_vectors


class IddsParameters(Parameters):
    """In-domain diversity sampling (Tsvigun et al., Findings of EMNLP 2022, arXiv 2301.03252)."""

    density_weight: float = Field(
        0.67,
        ge=0,
        le=1,
        description="Weight of similarity to the pool; similarity to the labelled has the rest",
    )


class InDomainDiversity:
    """Score w mean_{u in U} s(x, u) - (1 - w) mean_{l in L} s(x, l) of every x, kept up to date as
    examples move from U to L.

    s is the cosine similarity. The sums over U and L are kept and never computed from pairs, so an
    example that moves costs O(n d).
    """

    def __init__(self, vectors: Vectors, labeled: Vectors, weight: float) -> None:
        self._vectors = vectors
        self._weight = weight
        self._pool = sum_similarities(vectors, vectors)
        self._labeled = sum_similarities(vectors, labeled)
        self._pool_size = len(vectors)
        self._labeled_size = len(labeled)

    def parts(self) -> tuple[Numbers, Numbers]:
        """Return the mean similarity to U and to L, shapes (n,); 0 when the set is empty."""
        return self._pool / max(1, self._pool_size), self._labeled / max(1, self._labeled_size)

    def scores(self) -> Numbers:
        """Return the score of every example, moved or not, shape (n,)."""
        density, novelty = self.parts()
        return np.asarray(self._weight * density - (1 - self._weight) * novelty)

    def move(self, rows: Integers) -> None:
        """Move examples from U to L."""
        similarities = compare(self._vectors[rows], self._vectors).sum(axis=0)
        self._pool -= similarities
        self._labeled += similarities
        self._pool_size -= len(rows)
        self._labeled_size += len(rows)


def _select(candidates: Candidates, parameters: IddsParameters, count: int) -> Picks:
    """Pick greedily by score; each pick moves from the pool to the labelled set before the next."""
    usable, vectors, labeled = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    diversity = InDomainDiversity(vectors, labeled, parameters.density_weight)
    count = min(count, len(vectors))
    rows = np.empty(count, dtype=np.int64)
    found = np.empty((3, count))
    for pick in range(count):
        scores = diversity.scores()
        density, novelty = diversity.parts()
        scores[rows[:pick]] = -np.inf
        best = int(scores.argmax())
        rows[pick] = best
        found[:, pick] = (scores[best], density[best], novelty[best])
        diversity.move(rows[pick : pick + 1])
    parts = {"pool_similarity": found[1], "labeled_similarity": found[2]}
    return Picks(pick_ids(candidates.ids, usable[rows]), found[0], parts)


IDDS = Strategy(
    "idds",
    needs=frozenset({"embeddings"}),
    parameters=IddsParameters,
    select=_select,
    title="In-domain diversity",
    why="These examples are like the unlabelled pool and unlike what is labelled. Each pick "
    "counts as labelled before the next one is chosen.",
    score="Weighted mean similarity to the pool minus weighted mean similarity to the labelled "
    "examples; larger was picked first.",
    parts={
        "pool_similarity": "Mean cosine similarity to the unlabelled examples; larger is more "
        "typical.",
        "labeled_similarity": "Mean cosine similarity to the labelled examples and earlier picks; "
        "larger is more redundant.",
    },
    titles={
        "pool_similarity": "similarity to pool",
        "labeled_similarity": "similarity to labels",
    },
)
