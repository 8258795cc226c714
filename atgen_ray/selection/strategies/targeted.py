"""Strategies that pick for a target: prompts of the use in mind, which have no answers.

`targeted_facility_location` picks the batch that together covers the target, `rds_plus` lets the
target's prompts choose in turn.
"""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.bound import Bound
from atgen_ray.selection.kernels.coverage import DenseCoverage, Part
from atgen_ray.selection.kernels.executor import Executor
from atgen_ray.selection.kernels.greedy import Coverage, maximize_with_limit
from atgen_ray.selection.kernels.mutual_coverage import MutualCoverage, RoundRobin, find_relevance
from atgen_ray.selection.kernels.similarity import compare, nearest
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Strategy, pick_ids
from atgen_ray.selection.vectors import quantised_vectors, rows_finite


class TargetedFacilityLocationParameters(Parameters):
    """Facility location mutual information over the target, FLQMI (Kothawade et al., PRISM, AAAI
    2022, arXiv 2103.00128).
    """

    relevance: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weight of a pick's own nearness to the target beside what it adds to the "
        "target's coverage (eta); larger picks more of what is nearest, and more alike",
    )
    block_size: PositiveInt = Field(128, description="Candidates whose gains are computed together")
    memory_mb: PositiveInt = Field(
        512, description="Similarities held at a time in MB; more is faster"
    )


def _select(
    candidates: Candidates, parameters: TargetedFacilityLocationParameters, count: int
) -> Picks:
    """Pick greedily by the marginal gain sum_q max(0, s_aq - m_q) + eta max_q s_aq over the
    target's prompts q.

    m_q is the largest similarity of q to the labelled examples and the picks before, and -1 while
    there are none. The gain costs one similarity a candidate and prompt: the pool is never compared
    with itself.
    """
    usable, vectors, labeled = quantised_vectors(candidates)
    target = _known_target(candidates)
    if not len(usable) or not len(target):
        return Picks((), np.empty(0))
    workers = candidates.workers
    megabytes = parameters.memory_mb
    relevance = find_relevance(vectors, target, workers, megabytes)
    covered = nearest(target, labeled, megabytes)
    coverage = _cover(vectors, target, covered, workers, megabytes)
    function = MutualCoverage(coverage, relevance, parameters.relevance)
    count = min(count, len(vectors))
    rows, gains, limit = maximize_with_limit(
        function, count, parameters.block_size, lambda pick: workers.progress(pick, count)
    )
    share = float(gains.sum()) / limit if limit > 0 else 1.0
    parts = {"gain": gains, "target_similarity": relevance[rows]}
    return Picks(
        pick_ids(candidates.ids, usable[rows]),
        gains,
        parts,
        Bound(share, len(vectors), len(vectors)),
    )


def _known_target(candidates: Candidates) -> Vectors:
    target = candidates.target()
    return target[rows_finite(target)]


def _cover(
    vectors: Vectors, target: Vectors, covered: Numbers, workers: Executor, megabytes: int
) -> Coverage:
    """Return facility location with the target as its ground, which several workers share."""
    if workers.count == 1:
        return DenseCoverage(vectors, target, covered, None, megabytes)
    whole = Part(target, covered, None)
    shares = np.array_split(np.arange(len(target)), min(workers.count, len(target)))
    return workers.cover(vectors, [workers.share(whole.take(rows)) for rows in shares], megabytes)


TARGETED_FACILITY_LOCATION = Strategy(
    "targeted_facility_location",
    needs=frozenset({"embeddings", "target"}),
    parameters=TargetedFacilityLocationParameters,
    select=_select,
    title="Best coverage of the target",
    why="Together these examples stand for the target, the prompts of the use in mind: each pick "
    "is near to it, and best covers what neither the labels nor earlier picks cover of it.",
    score="What the pick added to the coverage of the target when it was chosen, plus its own "
    "nearness to the target; larger was picked first.",
    parts={
        "gain": "Similarity to the target that this pick added, summed over its prompts, plus the "
        "weighted similarity to the nearest of them.",
        "target_similarity": "Cosine similarity to the nearest prompt of the target; 1 is the "
        "same, 0 unrelated.",
    },
    titles={"gain": "coverage gained", "target_similarity": "similarity to target"},
)


class RdsPlusParameters(Parameters):
    """Round-robin by representation similarity, RDS+ (Ivison et al., arXiv 2503.01807). Its space
    is embedding.source=model with embedding.position=weighted and embedding.layer=-1.
    """

    memory_mb: PositiveInt = Field(512, description="Largest block of similarities in MB")


def _select_in_turn(candidates: Candidates, parameters: RdsPlusParameters, count: int) -> Picks:
    """Let the target's prompts choose in turn, each the candidate most similar to it that is left.

    The turn goes on from round to round: it begins after as many prompts as there are labels. So
    rounds together pick what one batch of their size would, and a target larger than a round is
    gone through whole.
    """
    usable, vectors, _ = quantised_vectors(candidates)
    target = _known_target(candidates)
    if not len(usable) or not len(target):
        return Picks((), np.empty(0))
    count = min(count, len(vectors))
    first = len(candidates.labeled_ids)
    # Prompts that have a turn, in order.
    asked = (first + np.arange(min(count, len(target)))) % len(target)
    orders, similarities = _find_nearest(
        vectors, target[asked], count, candidates.workers, parameters.memory_mb
    )
    queue = RoundRobin(orders, similarities)
    rows: list[int] = []
    found: list[tuple[float, float]] = []
    turn = 0
    while len(rows) < count:
        choice = queue.choose(turn % len(asked))
        if choice is not None:
            rows.append(choice[0])
            found.append((choice[1], 1 + turn // len(asked)))
        turn += 1
    scores, turns_taken = np.array(found).T
    return Picks(
        pick_ids(candidates.ids, usable[rows]),
        scores,
        {"target_similarity": scores, "turn": turns_taken},
    )


def _find_nearest(
    vectors: Vectors, target: Vectors, count: int, workers: Executor, megabytes: int
) -> tuple[list[Integers], list[Numbers]]:
    """Return the `count` rows most similar to each prompt of the target, best first, of equal ones
    the first row, and their similarities.
    """
    starts = range(0, len(vectors), workers.block)
    shared = workers.share(target)
    calls = [
        (workers.share(vectors[start : start + workers.block]), shared, count, megabytes)
        for start in starts
    ]
    blocks = workers.map(_rank_block, calls, lambda done: workers.progress(done, len(calls)))
    rows = np.concatenate(
        [start + order for start, (order, _) in zip(starts, blocks, strict=True)], axis=1
    )
    similarities = np.concatenate([values for _, values in blocks], axis=1)
    # The blocks are in the order of the rows, so that a stable sort breaks ties by row.
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    return (
        [*np.take_along_axis(rows, best, axis=1)],
        [*np.take_along_axis(similarities, best, axis=1)],
    )


def _rank_block(
    vectors: Vectors, target: Vectors, count: int, megabytes: int
) -> tuple[Integers, Numbers]:
    """Return for each prompt of the target the `count` most similar rows of a block, best first,
    and their similarities, both (t, k).
    """
    count = min(count, len(vectors))
    rows = np.empty((len(target), count), dtype=np.int64)
    found = np.empty((len(target), count))
    step = max(1, megabytes * 2**20 // (24 * max(1, len(vectors))))  # a block and its two orders
    for start in range(0, len(target), step):
        part = slice(start, start + step)
        similar = compare(target[part], vectors)
        order = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        rows[part] = order
        found[part] = np.take_along_axis(similar, order, axis=1)
    return rows, found


RDS_PLUS = Strategy(
    "rds_plus",
    needs=frozenset({"embeddings", "target"}),
    parameters=RdsPlusParameters,
    select=_select_in_turn,
    title="Chosen by the target in turn",
    why="The prompts of the target, the use in mind, chose in turn: these examples are those that "
    "are nearest to one of its prompts and were not taken before.",
    score="Cosine similarity to the prompt of the target that chose the example; 1 is the same.",
    parts={
        "target_similarity": "Cosine similarity to the prompt of the target that chose it; 1 is "
        "the same, 0 unrelated.",
        "turn": "Which turn of that prompt in this round the example was chosen in, from 1.",
    },
    titles={"target_similarity": "similarity to target"},
)
