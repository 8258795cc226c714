"""The `ld_cal` strategy goes from easy to hard examples over the rounds and picks in each round
those that should make the model most certain.
"""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.core.arrays import Integers
from atgen_ray.scoring import UNCERTAINTIES, Uncertainty
from atgen_ray.selection.kernels.coverage import DenseCoverage
from atgen_ray.selection.kernels.draws import draw_uniform
from atgen_ray.selection.kernels.greedy import maximize
from atgen_ray.selection.kernels.normalization import normalize, stratify
from atgen_ray.selection.kernels.similarity import nearest
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import keep_known, quantised_vectors


class LdCalParameters(NoiseFilterParameters):
    """Curriculum by difficulty and certainty gain (LD-CAL; Li et al., Findings of EMNLP 2024, paper
    523).

    Approximate, after the abstract: there an LLM rates difficulty; here it is the uncertainty of
    the model itself. The certainty that a batch adds is taken to be facility location weighed with
    that uncertainty.
    """

    uncertainty: Uncertainty = Field("nll", description="Uncertainty that stands for difficulty")
    stages: PositiveInt = Field(
        5, description="Bands of difficulty; round r picks from the r-th, later ones the hardest"
    )
    ground: PositiveInt = Field(
        10_000, description="Random candidates that stand for a larger pool"
    )
    block_size: PositiveInt = Field(128, description="Candidates whose gains are computed together")
    memory_mb: PositiveInt = Field(512, description="Similarities held at a time in MB")


def _select(candidates: Candidates, parameters: LdCalParameters, count: int) -> Picks:
    """Pick greedily from the band of the round by the gain sum_i u_i max(0, s_ij - m_i), where u_i
    is the rank of uncertainty.

    If the band is smaller than the batch, the nearest other bands join it.
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    uncertainty = candidates.measure(UNCERTAINTIES[parameters.uncertainty])[usable]
    usable, vectors, uncertainty = keep_known(usable, vectors, uncertainty)
    if not len(usable):
        return Picks((), np.empty(0))
    ids = pick_ids(candidates.ids, usable)
    bands = stratify(uncertainty, parameters.stages, "equal_size")
    rows = _near_band(bands, min(max(candidates.round, 1), parameters.stages) - 1, count)
    draws = draw_uniform(ids, "ground", candidates.seed, candidates.round)
    ground = np.sort(np.argsort(draws, kind="stable")[: parameters.ground])
    covered = nearest(vectors[ground], labeled, parameters.memory_mb)
    weights = normalize(uncertainty, "rank")[ground] if np.ptp(uncertainty) else None
    function = DenseCoverage(vectors[rows], vectors[ground], covered, weights, parameters.memory_mb)
    picked, gains = maximize(function, min(count, len(rows)), parameters.block_size)
    rows = rows[picked]
    parts = {"difficulty": uncertainty[rows], "band": bands[rows].astype(np.float64)}
    # Gains are measured on a sample of the pool; scaled up they do not depend on its size.
    return Picks(pick_ids(ids, rows), gains * (len(vectors) / len(ground)), parts)


def _near_band(bands: Integers, band: int, count: int) -> Integers:
    """Return the rows of `band` and of the bands nearest to it until there are `count`; of two
    equally near bands the easier comes first.
    """
    distance = np.abs(bands - band) * 2 + (bands > band)
    enough = np.sort(distance)[min(count, len(bands)) - 1]
    return np.flatnonzero(distance <= enough)


LD_CAL = with_noise_filter(
    Strategy(
        "ld_cal",
        needs=frozenset({"embeddings", "generations"}),
        parameters=LdCalParameters,
        select=_select,
        title="From easy to hard",
        why="Each round picks from its own band of difficulty, easy ones first. Within the band "
        "these examples stand best for what the model is unsure of.",
        score="What the pick added to the coverage of the pool, where uncertain examples count "
        "more; it falls from pick to pick.",
        parts={
            "difficulty": "How unsure the model was of its own answer, which stands for "
            "difficulty; larger is harder.",
            "band": "Band of difficulty that the example belongs to, from 0 for the easiest.",
        },
        titles={
            "band": "difficulty band",
        },
    )
)
