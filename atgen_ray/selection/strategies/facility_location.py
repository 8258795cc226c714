"""Strategies that maximise facility location, in one of four ways by the size of the pool, and say
how near their batch is to the best possible one.

`facility_location` picks the batch that best represents the pool, `weighted_facility_location` the
batch that best represents what the model is unsure of.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.scoring import UNCERTAINTIES, Uncertainty
from atgen_ray.selection.kernels.bound import Bound
from atgen_ray.selection.kernels.coverage import DenseCoverage, Part
from atgen_ray.selection.kernels.coverage_sparse import SparseCoverage
from atgen_ray.selection.kernels.draws import derive_seed, draw_uniform
from atgen_ray.selection.kernels.executor import Executor, Steps
from atgen_ray.selection.kernels.greedy import (
    Coverage,
    maximize_stochastically,
    maximize_with_limit,
)
from atgen_ray.selection.kernels.neighbors import find_neighbors, find_neighbors_in_cells
from atgen_ray.selection.kernels.normalization import Scale, normalize
from atgen_ray.selection.kernels.partition import Pool, maximize_in_parts
from atgen_ray.selection.kernels.similarity import nearest
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import keep_known, quantised_vectors

_CELL = 1000  # rows of a cell, about, when neighbours are looked for in cells


class CoverageParameters(Parameters):
    """Settings of the maximisation of facility location."""

    method: Literal["auto", "exact", "sparse", "stochastic", "partition"] = Field(
        "auto",
        description="exact: plain greedy; sparse: over nearest neighbours alone; stochastic: each "
        "pick the best of a sample; partition: greedy within random parts, then greedy among their "
        "picks; auto: exact, partition for large pools",
    )
    exact_limit: PositiveInt = Field(
        20_000, description="Largest pool that auto takes the exact method for"
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="exact, stochastic: where gains are computed; the same picks, sooner on a GPU "
        "made for float64",
    )
    block_size: PositiveInt = Field(128, description="Candidates whose gains are computed together")
    memory_mb: PositiveInt = Field(
        512, description="Similarities held at a time in MB; more is faster"
    )
    neighbors: PositiveInt = Field(
        100, description="sparse: neighbours of each candidate, itself among them"
    )
    probes: PositiveInt = Field(
        8,
        description="sparse: cells searched for neighbours in pools over exact_limit; smaller "
        "pools are searched whole",
    )
    epsilon: float = Field(
        0.05, gt=0, lt=1, description="stochastic: loss of value allowed on average"
    )
    part_size: PositiveInt = Field(5_000, description="partition: candidates in a part")
    proposals: int = Field(
        10,
        ge=2,
        description="partition: how many times the batch the parts propose together, if not a "
        "batch each",
    )
    ground: PositiveInt = Field(
        10_000,
        description="stochastic: random candidates that stand for a larger pool when gains are "
        "measured",
    )


def maximize_coverage(
    ids: Sequence[str],
    vectors: Vectors,
    covered: Numbers,
    weights: Numbers | None,
    parameters: CoverageParameters,
    count: int,
    candidates: Candidates,
) -> tuple[Integers, Numbers, Bound]:
    """Return the rows that maximise sum_i w_i max(covered_i, max_j s_ij) by the method in
    `parameters`, in order, their gains, and how near they are to the best rows.

    `vectors` (n, d) are unit vectors, quantised, and row i belongs to `ids[i]`; `count` <= n. Of
    `candidates` the seed, the round and the workers are used; all methods but sparse share their
    work among the workers.
    """
    size = len(vectors)
    seed = candidates.seed
    round = candidates.round
    workers = candidates.workers
    method = parameters.method
    megabytes = parameters.memory_mb
    block_size = parameters.block_size
    if method == "auto":  # exact greedy compares every pair, which large pools cannot afford
        method = "exact" if size <= parameters.exact_limit else "partition"
    if method == "partition" and size <= parameters.part_size:
        method = "exact"  # a single part, which needs no proposals

    def report(pick: int) -> None:
        workers.progress(pick, count)

    if method == "exact":
        function = _everything(vectors, covered, weights, parameters, workers)
        return _maximize(function, count, block_size, report)
    if method == "sparse":
        if size <= parameters.exact_limit:
            neighbors = find_neighbors(vectors, parameters.neighbors, megabytes)
        else:
            cells = max(1, size // _CELL)
            start = derive_seed("cells", seed, round)
            neighbors = find_neighbors_in_cells(
                vectors, parameters.neighbors, megabytes, cells, parameters.probes, start
            )
        sparse = SparseCoverage(*neighbors, covered, weights)
        return _maximize(sparse, count, block_size, report)
    order = np.argsort(draw_uniform(ids, "parts", seed, round), kind="stable")
    members = [np.sort(part) for part in np.array_split(order, -(-size // parameters.part_size))]
    pool = Pool(vectors, covered, weights, members, workers)
    if method == "stochastic":
        ground = np.sort(
            np.argsort(draw_uniform(ids, "ground", seed, round), kind="stable")[: parameters.ground]
        )
        sample = vectors[ground]
        weight = None if weights is None else weights[ground]
        function = _dense(vectors, sample, covered[ground], weight, parameters, follow=False)
        start = derive_seed("stochastic", seed, round)
        steps = Steps(workers, count + len(members))
        rows, gains = maximize_stochastically(
            function, count, parameters.epsilon, block_size, start, steps.report
        )
        steps.finish(count)
        bound = pool.bound(rows, ground, steps)
        # Gains were measured on a sample of the pool; scaled up they do not depend on its size.
        return rows, gains * (size / len(ground)), bound
    return maximize_in_parts(pool, count, parameters.proposals, block_size)


def _maximize(
    function: Coverage, count: int, block_size: int, report: Callable[[int], None]
) -> tuple[Integers, Numbers, Bound]:
    """Return what lazy greedy picks, and the bound on `function`, whose ground is the pool."""
    rows, gains, limit = maximize_with_limit(function, count, block_size, report)
    share = float(gains.sum()) / limit if limit > 0 else 1.0
    return rows, gains, Bound(share, function.size, function.size)


def _everything(
    vectors: Vectors,
    covered: Numbers,
    weights: Numbers | None,
    parameters: CoverageParameters,
    workers: Executor,
) -> Coverage:
    """Return facility location with the whole pool as its ground, shared among several workers."""
    if workers.count == 1 or parameters.device != "cpu":
        return _dense(vectors, vectors, covered, weights, parameters)
    whole = Part(vectors, covered, weights)
    shares = np.array_split(np.arange(len(vectors)), min(workers.count, len(vectors)))
    return workers.cover(
        vectors, [workers.share(whole.take(rows)) for rows in shares], parameters.memory_mb
    )


def _dense(
    vectors: Vectors,
    ground: Vectors,
    covered: Numbers,
    weights: Numbers | None,
    parameters: CoverageParameters,
    follow: bool = True,
) -> Coverage:
    """Return facility location over `ground` on the device in `parameters`."""
    if parameters.device == "cpu":
        return DenseCoverage(vectors, ground, covered, weights, parameters.memory_mb, follow)
    from atgen_ray.selection.kernels.coverage_device import DeviceCoverage

    return DeviceCoverage(
        vectors, ground, covered, weights, parameters.memory_mb, parameters.device, follow
    )


class FacilityLocationParameters(CoverageParameters):
    """Facility location as experimental design for fine-tuning (Bhatt et al., arXiv 2401.06692)."""


def _select(candidates: Candidates, parameters: FacilityLocationParameters, count: int) -> Picks:
    """Pick greedily by the marginal gain sum_i max(0, s_ij - m_i) over the candidates i.

    s is the cosine similarity; m_i is the largest similarity of i to the labelled examples and the
    picks before, and -1, the least possible, while there are none.
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    if not len(usable):
        return Picks((), np.empty(0))
    covered = nearest(vectors, labeled, parameters.memory_mb)
    ids = pick_ids(candidates.ids, usable)
    count = min(count, len(vectors))
    rows, gains, bound = maximize_coverage(
        ids, vectors, covered, None, parameters, count, candidates
    )
    parts = {"gain": gains}
    if len(labeled):
        parts["nearest_labeled"] = covered[rows]
    return Picks(pick_ids(ids, rows), gains, parts, bound)


FACILITY_LOCATION = Strategy(
    "facility_location",
    needs=frozenset({"embeddings"}),
    parameters=FacilityLocationParameters,
    select=_select,
    title="Best coverage of the pool",
    why="Together these examples stand for the whole pool: each pick is the one that best covers "
    "what neither the labels so far nor the picks before it cover.",
    score="What the pick added to the coverage of the pool when it was chosen.",
    parts={
        "gain": "Similarity to the pool that this pick added, summed over all unlabelled "
        "examples; it falls from pick to pick as less is left to cover.",
        "nearest_labeled": "Cosine similarity to the nearest example labelled before; 1 is the "
        "same, 0 unrelated.",
    },
    titles={
        "gain": "coverage gained",
        "nearest_labeled": "similarity to nearest label",
    },
)


class WeightedFacilityLocationParameters(CoverageParameters, NoiseFilterParameters):
    """Uncertainty-weighted facility location, the hybrid of the two families of Bhatt et al. (arXiv
    2401.06692).
    """

    uncertainty: Uncertainty = Field(
        "nll", description="Uncertainty that weighs the examples to be represented"
    )
    normalize: Scale = Field(
        "rank", description="Scale of the weights; none: as they are, over the largest"
    )
    floor: float = Field(
        0.0, ge=0, le=1, description="Weight of the most certain example; the least certain has 1"
    )


def _select_weighted(
    candidates: Candidates, parameters: WeightedFacilityLocationParameters, count: int
) -> Picks:
    """Pick greedily by the marginal gain sum_i u_i max(0, s_ij - m_i) over the candidates i, with
    m_i as in facility location.
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    uncertainty = candidates.measure(UNCERTAINTIES[parameters.uncertainty])[usable]
    usable, vectors, uncertainty = keep_known(usable, vectors, uncertainty)
    if not len(usable):
        return Picks((), np.empty(0))
    weights = parameters.floor + (1 - parameters.floor) * _weigh(uncertainty, parameters.normalize)
    covered = nearest(vectors, labeled, parameters.memory_mb)
    ids = pick_ids(candidates.ids, usable)
    count = min(count, len(vectors))
    rows, gains, bound = maximize_coverage(
        ids, vectors, covered, weights, parameters, count, candidates
    )
    return Picks(
        pick_ids(ids, rows),
        gains,
        {"gain": gains, "weight": weights[rows], "uncertainty": uncertainty[rows]},
        bound,
    )


def _weigh(uncertainty: np.ndarray, scale: Scale) -> np.ndarray:
    """Return weights from 0 to 1; all are 1 when all uncertainties are equal."""
    if np.ptp(uncertainty) == 0:
        return np.ones_like(uncertainty)
    weights = np.maximum(uncertainty, 0) if scale == "none" else normalize(uncertainty, scale)
    weights = weights - min(weights.min(), 0)
    return np.asarray(weights / weights.max())


WEIGHTED_FACILITY_LOCATION = with_noise_filter(
    Strategy(
        "weighted_facility_location",
        needs=frozenset({"embeddings", "generations"}),
        parameters=WeightedFacilityLocationParameters,
        select=_select_weighted,
        title="Best coverage of uncertain examples",
        why="Together these examples stand for the part of the pool that the model is unsure of: "
        "each pick best covers what is uncertain and not yet covered by labels or earlier picks.",
        score="What the pick added to the coverage of the pool, where uncertain examples count "
        "more.",
        parts={
            "gain": "Weighted similarity to the pool that this pick added; it falls from pick to "
            "pick.",
            "weight": "Weight of the example itself among those to be covered, from 0 (surest) to "
            "1 (least sure).",
            "uncertainty": "How unsure the model was of its own answer; larger is less sure.",
        },
        titles={
            "gain": "coverage gained",
        },
    )
)
