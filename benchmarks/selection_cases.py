"""The measurements behind benchmarks/selection.py: each is a function of plain settings that
returns plain numbers.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Result = dict[str, Any]


def make_pool(size: int, dimensions: int, kind: str) -> np.ndarray:
    """Unit vectors, float32: random directions, or bundles around a hundredth as many centres."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((size, dimensions), dtype=np.float32)
    if kind == "clustered":
        centers = generator.standard_normal(
            (max(10, min(2000, size // 100)), dimensions), dtype=np.float32
        )
        labels = generator.integers(0, len(centers), size)
        for start in range(0, size, 8192):
            part = slice(start, start + 8192)
            vectors[part] = centers[labels[part]] + 0.7 * vectors[part]
    for start in range(0, size, 8192):
        part = slice(start, start + 8192)
        vectors[part] /= np.linalg.norm(vectors[part], axis=1, keepdims=True)
    return vectors


def select(
    vectors: np.ndarray, strategy: str, count: int, parameters: Result
) -> tuple[float, np.ndarray, Result]:
    """Seconds of a selection from the whole of a pool, the rows picked, and what it says of its
    bound. Large pools are shared out over Ray workers, as in a run.
    """
    from atgen_ray.selection import Embeddings, read_bound, select_batch
    from atgen_ray.selection.ray_pool import SMALL_POOL, choose_workers

    if len(vectors) > SMALL_POOL:
        import ray

        ray.init(num_cpus=os.cpu_count(), log_to_driver=False, include_dashboard=False)
    ids = [f"{row:08d}" for row in range(len(vectors))]
    embeddings = Embeddings(ids, vectors)
    select_batch(
        "facility_location", {}, ids=ids[:2], count=1, embeddings=embeddings
    )  # imports are not selection
    started = time.perf_counter()
    workers = choose_workers(None, len(vectors), lambda done, total: None)
    picks = select_batch(
        strategy, parameters, ids=ids, count=count, embeddings=embeddings, workers=workers
    )
    seconds = time.perf_counter() - started
    bound = read_bound(picks)
    said = {} if bound is None else {"bound": round(bound.share, 4)}
    return seconds, np.array([int(id) for id in picks["id"].to_pylist()]), said


def coverage(vectors: np.ndarray, rows: np.ndarray, sample: int = 20_000) -> float:
    """Mean over a sample of the pool of 1 + the largest similarity to a row picked."""
    asked = np.random.default_rng(1).permutation(len(vectors))[:sample]
    best = [
        (vectors[asked[i : i + 2000]] @ vectors[rows].T).max(axis=1)
        for i in range(0, len(asked), 2000)
    ]
    return float(1 + np.concatenate(best).mean(dtype=np.float64))


def facility_location(
    size: int, count: int, kind: str, method: str, dimensions: int = 384
) -> Result:
    vectors = make_pool(size, dimensions, kind)
    said: Result = {}
    if method == "submodlib":
        seconds, rows = select_with_submodlib(vectors, count)
    elif method == "subsample":  # plain greedy on as much of the pool as it can take
        asked = np.sort(np.random.default_rng(2).permutation(size)[:10_000])
        seconds, picked, said = select(
            vectors[asked], "facility_location", count, {"method": "exact"}
        )
        rows = asked[picked]
    else:
        parameters = {"method": method, "memory_mb": 2048 if method == "exact" else 1024}
        if method == "sparse":
            parameters["neighbors"] = min(size, max(50, 2 * size // count))
        seconds, rows, said = select(vectors, "facility_location", count, parameters)
    return said | {
        "seconds": round(seconds, 3),
        "value": coverage(vectors, rows, max(20_000, min(size, 100_000))),
    }


def select_with_submodlib(vectors: np.ndarray, count: int) -> tuple[float, np.ndarray]:
    from submodlib import FacilityLocationFunction

    started = time.perf_counter()
    kernel = vectors @ vectors.T
    kernel += 1  # it takes 0, not -1, for what nothing covers
    function = FacilityLocationFunction(
        n=len(vectors), mode="dense", separate_rep=False, sijs=kernel, pybind_mode="array32"
    )
    found = function.maximize(
        budget=count,
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    return time.perf_counter() - started, np.array([row for row, _ in found])


def idds(size: int, count: int, method: str, dimensions: int = 768) -> Result:
    vectors = make_pool(size, dimensions, "clustered")
    if method == "dense":
        started = time.perf_counter()
        table = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        pool, labeled = table.sum(axis=1), np.zeros(size)
        rows: list[int] = []
        for pick in range(count):
            scores = 0.67 * pool / (size - pick) - 0.33 * labeled / max(1, pick)
            scores[rows] = -np.inf
            rows.append(int(scores.argmax()))
            pool -= table[rows[-1]]
            labeled += table[rows[-1]]
        seconds, found = time.perf_counter() - started, np.array(rows)
    else:
        seconds, found, _ = select(vectors, "idds", count, {})
    return {
        "seconds": round(seconds, 3),
        "value": coverage(vectors, found),
        "picks": found[:20].tolist(),
    }


def hadas(size: int, labeled: int, method: str) -> Result:
    generator = np.random.default_rng(0)
    shares, others = generator.dirichlet([1] * 3, size), generator.dirichlet([1] * 3, labeled)
    if method == "loop":
        from scipy.spatial.distance import jensenshannon

        started = time.perf_counter()
        found = np.array(
            [np.mean([jensenshannon(one, other) ** 2 for other in others]) for one in shares]
        )
    else:
        from atgen_ray.selection.kernels.divergence import mean_divergence

        mean_divergence(shares[:1], others[:1], 64)
        started = time.perf_counter()
        found = mean_divergence(shares, others, 64)
    return {"seconds": round(time.perf_counter() - started, 4), "value": float(found.sum())}


def growth(size: int, count: int, method: str, dimensions: int = 384) -> Result:
    seconds, _, said = select(make_pool(size, dimensions, "clustered"), method, count, {})
    return said | {"seconds": round(seconds, 3)}


CASES: dict[str, Callable[..., Result]] = {
    "exact": facility_location,
    "near exact": facility_location,
    "large": facility_location,
    "idds": idds,
    "hadas": hadas,
    "growth": growth,
}
