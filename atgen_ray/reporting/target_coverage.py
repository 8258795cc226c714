"""How much of the target the picks cover after each round, beside random draws of the same size.

A prompt of the target is as well covered as its nearest pick is similar to it. The draws are a
function of the example ids, so that equal runs give equal numbers.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.arrays import Vectors
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import TOMBSTONE

DRAWS = 20  # random draws at most, which share no example
COMPARED = 1000  # prompts at most whose similarities to each other are measured

Load = Callable[[Sequence[str]], Vectors]  # content hashes to vectors; NaN where there is none


@dataclass(frozen=True)
class TargetCoverage:
    """How much of the target the picks up to a round cover.

    `similarity` is the mean over the target's prompts of the cosine similarity to the nearest pick.
    `covered` is the share of prompts whose nearest pick is at least as similar as two prompts of
    the target are to each other in the median; None for a target of one prompt. `random_similarity`
    and `random_covered` are means over random draws from the pool of as many examples.
    """

    prompts: int
    picks: int
    similarity: float
    random_similarity: float
    covered: float | None
    random_covered: float | None


def measure_coverage(
    target: Sequence[str],
    rounds: Mapping[int, Sequence[str]],
    scan: Callable[..., Iterable[pa.Table]],
    load: Load,
) -> dict[int, TargetCoverage]:
    """Return the coverage of the target after each round that has picks.

    Args:
        target: content hashes of its prompts.
        rounds: ids of the picks of each round.
        scan: yields the columns of the pool that it is given the names of, part by part.
        load: returns the vectors of content hashes.
    """
    prompts = _keep_finite(load([each for each in target if each != TOMBSTONE]))
    total = sum(map(len, rounds.values()))
    if not len(prompts) or not total:
        return {}
    drawn = _draw(scan, DRAWS * total)
    contents = _find_contents(scan, {*drawn, *(id_ for ids in rounds.values() for id_ in ids)})
    vectors = _load_by_id(contents, load)
    level = _find_level(prompts)
    found = {}
    picked: list[str] = []
    for round in sorted(rounds):
        picked += rounds[round]
        ours = _cover(prompts, picked, vectors)
        if not rounds[round] or ours is None:
            continue
        starts = range(0, max(1, len(drawn) - len(picked) + 1), len(picked))
        others = [
            values
            for start in [*starts][:DRAWS]
            if (values := _cover(prompts, drawn[start : start + len(picked)], vectors)) is not None
        ]
        found[round] = TargetCoverage(
            len(prompts),
            len(picked),
            float(ours.mean()),
            float(np.mean(others)),
            None if level is None else float((ours >= level).mean()),
            None if level is None else float((np.array(others) >= level).mean()),
        )
    return found


def _draw(scan: Callable[..., Iterable[pa.Table]], count: int) -> list[str]:
    """Return at most `count` ids of the pool that could be drawn, in random order."""
    ids = (
        id_
        for part in scan("id", "duplicate_of")
        for id_ in part["id"].filter(pc.is_null(part["duplicate_of"])).to_pylist()
    )
    return heapq.nsmallest(count, ids, key=lambda id_: mix_seed("target coverage", id_))


def _find_contents(scan: Callable[..., Iterable[pa.Table]], ids: set[str]) -> dict[str, str]:
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, str] = {}
    for part in scan("id", "content"):
        part = part.filter(pc.is_in(part["id"], wanted))
        found |= dict(zip(part["id"].to_pylist(), part["content"].to_pylist(), strict=True))
    return {id_: content for id_, content in found.items() if content != TOMBSTONE}


def _load_by_id(contents: Mapping[str, str], load: Load) -> dict[str, Vectors]:
    rows = load([*contents.values()])
    return {
        id_: row for id_, row in zip(contents, rows, strict=True) if row.size and _is_finite(row)
    }


def _cover(prompts: Vectors, ids: Sequence[str], vectors: Mapping[str, Vectors]) -> Vectors | None:
    """Return the similarity of each prompt to the nearest of `ids`, (t,); None where none has a
    vector.
    """
    rows = [vectors[id_] for id_ in ids if id_ in vectors]
    if not rows:
        return None
    nearest: Vectors = (prompts @ np.stack(rows).T).max(axis=1)
    return nearest


def _find_level(prompts: Vectors) -> float | None:
    """Return the median similarity of two prompts of the target; None for fewer than two."""
    if len(prompts) < 2:
        return None
    some = prompts[np.linspace(0, len(prompts) - 1, min(len(prompts), COMPARED)).astype(np.int64)]
    return float(np.median((some @ some.T)[np.triu_indices(len(some), 1)]))


def _keep_finite(vectors: Vectors) -> Vectors:
    kept: Vectors = vectors[[_is_finite(row) for row in vectors]]
    return kept


def _is_finite(row: Vectors) -> bool:
    return bool(np.isfinite(row).all())
