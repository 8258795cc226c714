"""Facility location of pools too large to compare every pair of examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atgen_ray.selection.kernels import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage import Part, PartsCoverage
from atgen_ray.selection.kernels.greedy import maximize
from atgen_ray.selection.kernels.workers import Workers


@dataclass(frozen=True)
class _Group:
    """Some parts of the pool and the rows of the pool that they proposed together, in ascending order."""

    parts: list[Any]
    rows: Integers


def maximize_in_parts(
    vectors: Vectors,
    covered: Numbers,
    weights: Numbers | None,
    count: int,
    members: Sequence[Integers],
    branching: int,
    block_size: int,
    megabytes: int,
    slack: float,
    workers: Workers,
) -> tuple[Integers, Numbers]:
    """Rows that nearly maximise facility location over a large pool, best first, and the gain of each over all of it.

    `vectors` (n, d) are unit vectors on the grid; `covered` and `weights` are those of DenseCoverage. `members` (rows
    in ascending order) are the parts, drawn at random so that each is the pool in small. Every part proposes `count`
    rows by plain greedy (GreeDi, Mirzasoleiman et al., NeurIPS 2013); while there are more than `branching` parts,
    groups of so many propose among what their parts proposed (a tree, as in Barbosa et al., ICML 2015); at last greedy
    picks among all proposals, by what they gain over the whole pool. Where proposals are put together a pick may gain
    less than the best one by a share of `slack`.

    The picks depend on the parts and `branching`, never on the workers.
    """
    tasks = _count_tasks(len(members), branching)
    steps = (tasks + 1) * count
    parts = [
        workers.put(Part(vectors[rows], covered[rows], None if weights is None else weights[rows])) for rows in members
    ]
    done = 0

    def note(finished: int) -> None:
        workers.progress((done + finished) * count, steps)

    found = workers.map(_propose, [(part, count, block_size, megabytes) for part in parts], note)
    groups = [_Group([part], rows[picked]) for part, rows, picked in zip(parts, members, found, strict=True)]
    done = len(groups)
    while len(groups) > branching:
        groups = [_join(groups[start : start + branching]) for start in range(0, len(groups), branching)]
        calls = [(vectors[group.rows], count, block_size, megabytes, slack, *group.parts) for group in groups]
        found = workers.map(_merge, calls, note)
        groups = [_Group(group.parts, group.rows[picked]) for group, picked in zip(groups, found, strict=True)]
        done += len(groups)
    last = _join(groups)
    coverage = workers.cover(vectors[last.rows], last.parts, megabytes)

    def note_pick(pick: int) -> None:
        workers.progress(done * count + pick, steps)

    picked, gains = maximize(coverage, count, block_size, note_pick, slack)
    return last.rows[picked], gains


def _count_tasks(parts: int, branching: int) -> int:
    """Proposals in all levels of the tree."""
    tasks = parts
    while parts > branching:
        parts = -(-parts // branching)
        tasks += parts
    return tasks


def _join(groups: list[_Group]) -> _Group:
    parts = [part for group in groups for part in group.parts]
    return _Group(parts, np.sort(np.concatenate([group.rows for group in groups])))


def _propose(part: Part, count: int, block_size: int, megabytes: int) -> Integers:
    """What a part proposes, its own rows, in ascending order."""
    return _merge(part.vectors, count, block_size, megabytes, 0.0, part)


def _merge(vectors: Vectors, count: int, block_size: int, megabytes: int, slack: float, *parts: Part) -> Integers:
    """What is proposed of `vectors` for `parts`, in ascending order."""
    coverage = PartsCoverage(vectors, parts, megabytes)
    return np.sort(maximize(coverage, min(count, len(vectors)), block_size, slack=slack)[0])
