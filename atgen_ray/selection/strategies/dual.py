"""The `dual` strategy fills half of the batch with the most uncertain of the typical and novel
examples, and the other half at random.
"""

import math

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.scoring import bleu_variance
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategies.idds import InDomainDiversity
from atgen_ray.selection.strategy import Candidates, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import quantised_vectors


class DualParameters(NoiseFilterParameters):
    """Diversity and uncertainty active learning (Giouroukis, Gidiotis and Tsoumakas, arXiv
    2503.00867).
    """

    density_weight: float = Field(
        0.67, ge=0, le=1, description="Weight of similarity to the pool within IDDS"
    )
    neighbors: PositiveInt = Field(
        10, description="Candidates by IDDS, of which the most uncertain is picked"
    )
    share: float = Field(
        0.5, ge=0, le=1, description="Share of the batch picked so; the rest is random"
    )
    noise_cutoff: float = Field(
        0.96, ge=0, le=1, description="Candidates with a BLEUVar of this or more are noise"
    )


def _select(candidates: Candidates, parameters: DualParameters, count: int) -> Picks:
    """Pick the first part: of the K best by IDDS the one with the largest BLEUVar below the
    cut-off, again and again.

    All K then count as labelled within this batch, so that a region is visited once. If all K are
    noise, none is picked and they count as labelled too. The score is the rank counted from the end
    of the batch. `select_batch` fills the rest of the batch at random.
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    disagreement = candidates.measure(bleu_variance)[usable]
    disagreement[disagreement >= parameters.noise_cutoff] = np.nan
    diversity = InDomainDiversity(vectors, labeled, parameters.density_weight)
    excluded = np.zeros(len(vectors), dtype=bool)
    rows: list[int] = []
    found: list[tuple[float, float]] = []
    while len(rows) < math.ceil(parameters.share * count) and not excluded.all():
        # The scores change with every region that counts as labelled, so they are read again.
        idds = np.where(excluded, -np.inf, diversity.scores())
        best = np.argsort(-idds, kind="stable")[: min(parameters.neighbors, (~excluded).sum())]
        if not np.isnan(disagreement[best]).all():
            row = int(best[np.nanargmax(disagreement[best])])
            rows.append(row)
            found.append((idds[row], disagreement[row]))
        excluded[best] = True
        diversity.move(best)
    density, variance = np.array(found).reshape(-1, 2).T
    scores = np.arange(count, count - len(rows), -1, dtype=np.float64)
    return Picks(
        pick_ids(candidates.ids, usable[rows]), scores, {"idds": density, "bleuvar": variance}
    )


DUAL = with_noise_filter(
    Strategy(
        "dual",
        needs=frozenset({"embeddings", "samples"}),
        parameters=DualParameters,
        select=_select,
        title="Typical, new and uncertain",
        why="Each pick of the first part of the batch is the example on which the model's samples "
        "disagree most, among the few that are most like the pool and least like the labels. The "
        "rest of the batch was drawn at random.",
        score="Place in the batch, counted from its end: the first pick has the largest number.",
        parts={
            "idds": "Similarity to the pool minus similarity to the labels when the example was "
            "chosen; larger is more typical and newer.",
            "bleuvar": "Mean squared difference between the sampled answers, from 0 (the same) to "
            "1 (nothing in common).",
        },
        titles={
            "idds": "in-domain diversity",
            "bleuvar": "disagreement of samples",
        },
    )
)
