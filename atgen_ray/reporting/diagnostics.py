"""Diagnostics of query batches: each is compared with the pool and with a random draw of equal
size by length, similarity to earlier labels, near-duplicates and coverage of the pool's clusters.

Every draw is a function of the example ids, so that equal runs give equal diagnostics. Embeddings
that are missing or not finite leave their example out.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.arrays import Numbers
from atgen_ray.core.hashing import mix_seed

Vectors = dict[str, Numbers]  # unit vectors by example id

CLUSTERS = 20
MEMBERS = 5  # at least so many examples to a cluster, on average


class Clusters:
    """K-means clusters of a sample of the pool, at most `CLUSTERS`."""

    def __init__(self, sample: Sequence[Numbers]) -> None:
        from sklearn.cluster import KMeans

        count = min(CLUSTERS, len(sample) // MEMBERS)
        distinct = len(np.unique(np.stack(sample), axis=0)) if count > 1 else 0
        self._count = min(count, distinct)
        self._means = (
            KMeans(self._count, n_init=3, random_state=0).fit(np.stack(sample))
            if self._count > 1
            else None
        )

    def cover(
        self, groups: Mapping[str, Sequence[str]], labeled: Sequence[str], vectors: Vectors
    ) -> dict[str, float]:
        """Return, for each group of ids, the share of the clusters that hold an example of the
        group or of `labeled`; nothing if the pool has fewer than two clusters.
        """
        return {
            name: len(self._find([*labeled, *ids], vectors)) / self._count
            for name, ids in groups.items()
            if self._means is not None and ids
        }

    def _find(self, ids: Sequence[str], vectors: Vectors) -> set[int]:
        rows = [vectors[id] for id in ids if id in vectors]
        return (
            set(self._means.predict(np.stack(rows)).tolist())
            if rows and self._means is not None
            else set()
        )


PROJECTED = 4000  # pool examples behind the principal components
MAPPED = 1500  # pool examples on the map
COMPARED = 1000  # pool examples behind the pool's own distributions, and picks of a round
DRAWN = 50_000  # pool examples, from which all draws are made
KNOWN = 4000  # labelled examples that others are compared with
NEAR_DUPLICATE = 0.95  # cosine similarity from which two examples count as near-duplicates


class Prefix(Sequence[str]):
    """The first items of a list that may grow: no copy for each round."""

    def __init__(self, items: list[str], count: int) -> None:
        self._items = items
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        chosen = range(self._count)[at]
        return self._items[chosen] if isinstance(chosen, int) else [self._items[i] for i in chosen]


@dataclass(frozen=True)
class Query:
    """The picks of a round by rank, and what was labelled before it."""

    round: int
    picked: Sequence[str]
    labeled: Sequence[str]


@dataclass(frozen=True)
class PoolMap:
    """Pool examples (n, 2) on their first two principal components, and the share of the variance
    these hold.
    """

    points: Numbers
    variance: float


@dataclass(frozen=True)
class RoundDiagnostics:
    """One round, by group: `pool` (a sample of what could be picked), `random` (an equal-sized
    draw), `picked`.

    `lengths` are in words; `similarities` are cosines to the nearest labelled example, empty while
    nothing is labelled. `near_duplicates` are shares of examples that the pool marks as duplicates,
    or that are at least `NEAR_DUPLICATE` similar to a labelled example or to one before them in
    their own group. `coverage` is the share of the pool's clusters that hold a labelled example or
    one of the group. Of more than `COMPARED` picks and `KNOWN` labelled examples, every second,
    third and so on is looked at, which is `thinned`.
    """

    lengths: dict[str, Numbers]
    similarities: dict[str, Numbers]
    near_duplicates: dict[str, float]
    coverage: dict[str, float]
    picked: Numbers  # (k, 2) on the map
    labeled: Numbers  # (m, 2)
    thinned: bool = False


def diagnose_rounds(
    scan: Callable[..., Iterable[pa.Table]],
    queries: Sequence[Query],
    tables: Iterable[pa.Table],
    excluded: bool,
) -> tuple[PoolMap | None, dict[int, RoundDiagnostics]]:
    """Return the map of the pool (None without embeddings) and the diagnostics of every round.

    Args:
        scan: yields the columns of the pool that it is given the names of, part by part.
        tables: tables with the columns content and embedding; only rows that are needed are kept.
        excluded: whether examples marked as duplicates could not be picked.
    """
    whole = queries
    queries = [
        replace(each, picked=_thin(each.picked, COMPARED), labeled=_thin(each.labeled, KNOWN))
        for each in whole
    ]
    eligible = _list_eligible(scan, excluded)
    if len(eligible) > DRAWN:
        eligible = pa.chunked_array([_draw(eligible, 0, DRAWN, set())])
    sample = _draw(eligible, 0, PROJECTED, set())
    groups = {
        query.round: _group(query, set(full.labeled), eligible, sample)
        for query, full in zip(queries, whole, strict=True)
    }
    # Of a large pool only the examples that are drawn, picked or labelled are held in memory.
    needed = set(sample).union(*(ids for group in groups.values() for ids in group.values()))
    needed.update(*(query.labeled for query in queries))
    wanted = pa.array(sorted(needed), pa.string())
    rows = [
        row
        for part in scan("id", "text", "content", "duplicate_of")
        for row in part.filter(pc.is_in(part["id"], wanted)).to_pylist()
    ]
    duplicates = {row["id"] for row in rows if row["duplicate_of"] is not None}
    vectors = _read_vectors(tables, {row["id"]: row["content"] for row in rows})
    known = [vectors[id] for id in sample if id in vectors]
    basis = _find_components(known)
    clusters = Clusters(known)
    words = {row["id"]: len(row["text"].split()) for row in rows}
    rounds = {
        query.round: RoundDiagnostics(
            lengths={
                name: np.array([words[id] for id in ids if id in words], float)
                for name, ids in group.items()
            },
            similarities=_compare_to_labeled(group, query.labeled, vectors),
            near_duplicates={
                name: _share_near_duplicates(group[name], query.labeled, vectors, duplicates)
                for name in ("random", "picked")
                if group[name]
            },
            coverage=clusters.cover(
                {name: group[name] for name in ("random", "picked")}, query.labeled, vectors
            ),
            picked=basis.project(query.picked, vectors),
            labeled=basis.project(query.labeled, vectors),
            thinned=(len(query.picked), len(query.labeled))
            != (len(full.picked), len(full.labeled)),
        )
        for query, full, group in zip(queries, whole, groups.values(), strict=True)
    }
    mapped = basis.project(sample[:MAPPED], vectors)
    return (PoolMap(mapped, basis.variance) if len(mapped) else None), rounds


@dataclass(frozen=True)
class _Components:
    mean: Numbers  # (d,)
    axes: Numbers  # (2, d)
    variance: float

    def project(self, ids: Iterable[str], vectors: Vectors) -> Numbers:
        rows = [vectors[id] for id in ids if id in vectors]
        return (
            (np.stack(rows) - self.mean) @ self.axes.T
            if rows and len(self.mean)
            else np.empty((0, 2))
        )


def _find_components(rows: list[Numbers]) -> _Components:
    if len(rows) < 3 or len(rows[0]) < 2:
        return _Components(np.empty(0), np.empty((2, 0)), 0.0)
    matrix = np.stack(rows)
    mean = matrix.mean(axis=0)
    _, values, axes = np.linalg.svd(matrix - mean, full_matrices=False)
    total = float((values**2).sum())
    # The sign of a component is arbitrary; without a rule two machines would mirror each other's
    # maps.
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
    return _Components(
        mean, axes[:2] * signs[:, None], float((values[:2] ** 2).sum()) / total if total else 0.0
    )


def _list_eligible(scan: Callable[..., Iterable[pa.Table]], excluded: bool) -> pa.ChunkedArray:
    """Return the ids of the pool, without near-duplicates if they are `excluded`."""
    parts = (
        part.filter(pc.is_null(part["duplicate_of"])) if excluded else part
        for part in scan("id", "duplicate_of")
    )
    return pa.chunked_array([chunk for part in parts for chunk in part["id"].chunks], pa.string())


def _draw(ids: pa.ChunkedArray, round: int, count: int, without: Collection[str]) -> list[str]:
    drawn = (id for each in ids if (id := each.as_py()) not in without)
    # A mixed seed is the same for equal ids only, so that the order of the ids does not matter.
    return heapq.nsmallest(count, drawn, key=lambda id: mix_seed("report", round, id))


def _thin(ids: Sequence[str], count: int) -> list[str]:
    """Return about `count` of `ids` at equal distances, or all of them where there are fewer."""
    step = max(-(-len(ids) // count), 1)
    return [ids[at] for at in range(0, len(ids), step)]


def _group(
    query: Query, labeled: set[str], eligible: pa.ChunkedArray, sample: Sequence[str]
) -> dict[str, list[str]]:
    pool = [id for id in sample if id not in labeled][:COMPARED]
    return {
        "pool": pool,
        "random": _draw(eligible, query.round, len(query.picked), labeled),
        "picked": [*query.picked],
    }


def _read_vectors(tables: Iterable[pa.Table], contents: dict[str, str]) -> Vectors:
    wanted = pa.array(sorted(set(contents.values())), pa.string())
    found: Vectors = {}
    for table in tables:
        rows = table.filter(
            pc.and_(pc.is_in(table["content"], wanted), pc.is_valid(table["embedding"]))
        )
        for content, values in zip(
            rows["content"].to_pylist(), rows["embedding"].to_pylist(), strict=True
        ):
            vector = np.array(values, np.float64)
            if np.isfinite(vector).all():
                found[content] = vector / (np.linalg.norm(vector) or 1.0)
    return {id: found[content] for id, content in contents.items() if content in found}


def _compare_to_labeled(
    group: dict[str, list[str]], labeled: Sequence[str], vectors: Vectors
) -> dict[str, Numbers]:
    against = [vectors[id] for id in labeled if id in vectors]
    if not against:
        return {}
    columns = np.stack(against).T
    rows = {name: [vectors[id] for id in ids if id in vectors] for name, ids in group.items()}
    return {
        name: (np.stack(part) @ columns).max(axis=1) if part else np.empty(0)
        for name, part in rows.items()
    }


def _share_near_duplicates(
    ids: list[str], labeled: Sequence[str], vectors: Vectors, duplicates: set[str]
) -> float:
    known = [vectors[id] for id in labeled if id in vectors]
    own = [id for id in ids if id in vectors]
    near = duplicates.intersection(ids)
    if own:
        group = np.stack([vectors[id] for id in own])
        # An example is compared with the labels, and with those before it in its group.
        closest = np.tril(group @ group.T, -1).max(axis=1)
        if known:
            closest = np.maximum(closest, (group @ np.stack(known).T).max(axis=1))
        near |= {id for id, most in zip(own, closest, strict=True) if most >= NEAR_DUPLICATE}
    return sum(id in near for id in ids) / len(ids)
