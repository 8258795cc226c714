"""Selection over Ray picks what one process picks, on any number of workers, and when workers
die.
"""

import os
import signal

import numpy as np
import pyarrow as pa
import pytest
import ray

from atgen_ray.core.errors import RunStopped
from atgen_ray.selection import read_bound
from atgen_ray.selection.kernels.coverage import DenseCoverage, Part
from atgen_ray.selection.kernels.greedy import maximize
from atgen_ray.selection.kernels.similarity import quantise
from atgen_ray.selection.ray_pool import RayWorkers, ShardedCoverage
from atgen_ray.testing.pools import Pool, make_pool

pytestmark = pytest.mark.usefixtures("ray_session")
PARTITION = {"method": "partition", "part_size": 60, "proposals": 3}


def ignore(done: int, total: int) -> None: ...


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [
        ("facility_location", {"method": "exact"}),
        ("facility_location", PARTITION),
        ("facility_location", {"method": "stochastic", "ground": 200, "part_size": 60}),
        ("weighted_facility_location", PARTITION),
    ],
    ids=["exact", "partition", "stochastic", "weighted"],
)
def test_the_same_picks_on_1_2_and_8_shards(strategy: str, parameters: dict) -> None:
    pool = make_pool(700, seed=3, labeled=20)
    expected = pool.select(strategy, 40, parameters)
    for count in (1, 2, 8):
        found = pool.select(strategy, 40, parameters, workers=RayWorkers(count, ignore))
        assert found.equals(expected), count
        assert read_bound(found) == read_bound(expected) is not None
    order = np.random.default_rng(0).permutation(700).tolist()
    assert (
        pool.take(order)
        .select(strategy, 40, parameters, workers=RayWorkers(2, ignore))
        .equals(expected)
    )


def test_workers_fit_into_what_others_leave_of_the_cluster() -> None:
    class Resident:
        def ready(self) -> bool:
            return True

    held = ray.available_resources()["CPU"] - 0.6
    resident = ray.remote(num_cpus=held)(Resident).remote()
    assert ray.get(resident.ready.remote())
    pool = make_pool(100)
    found = pool.select("facility_location", 5, {"method": "exact"}, workers=RayWorkers(8, ignore))
    ray.kill(resident)
    assert found.equals(pool.select("facility_location", 5, {"method": "exact"}))


def test_progress_rises_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    pool = make_pool(300)
    pool.select(
        "facility_location", 10, PARTITION, workers=RayWorkers(2, lambda *step: seen.append(step))
    )
    assert seen == sorted(seen)
    # Five parts of 60 propose rows, are compared with all proposals, and are measured twice.
    assert seen[-1] == (30, 30)
    assert {(10, 30), (20, 30)} <= set(seen)


def test_a_stop_request_ends_a_long_selection() -> None:
    def stop(done: int, total: int) -> None:
        raise RunStopped("stopped on request")

    with pytest.raises(RunStopped):
        make_pool(300).select("facility_location", 10, PARTITION, workers=RayWorkers(2, stop))


def grid_pool(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((count, 16))
    return quantise(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_a_worker_that_dies_changes_nothing() -> None:
    vectors, covered = grid_pool(600), np.full(600, -1.0)
    expected = maximize(DenseCoverage(vectors, vectors, covered, None, 64), 30, 64)
    whole = Part(vectors, covered, None)
    parts = [ray.put(whole.take(rows)) for rows in np.array_split(np.arange(600), 4)]
    coverage = ShardedCoverage(vectors, parts, 2, 64, 1.0)
    killed = []

    def kill(pick: int) -> None:
        if pick in (5, 12) and pick not in killed:
            killed.append(pick)
            os.kill(
                ray.get(coverage._actors[pick % 2].__ray_call__.remote(lambda _: os.getpid())),
                signal.SIGKILL,
            )

    rows, gains = maximize(coverage, 30, 64, kill)
    assert killed == [5, 12]
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(gains, expected[1])


def test_calls_come_back_in_order_though_workers_die(tmp_path: object) -> None:
    def die_once(place: int) -> int:
        mark = f"{tmp_path}/{place}"
        if place % 3 == 0 and not os.path.exists(mark):  # noqa: PTH110
            open(mark, "w").close()  # noqa: PTH123
            os.kill(os.getpid(), signal.SIGKILL)
        return place * place

    done: list[int] = []
    found = RayWorkers(2, ignore).map(die_once, [(place,) for place in range(7)], done.append)
    assert found == [place * place for place in range(7)]
    assert done[-1] == 7


def test_a_pool_without_embeddings_needs_no_workers() -> None:
    pool = Pool(["a", "b"], [(np.nan, 0.0)] * 2, [None] * 2)
    table: pa.Table = pool.select("facility_location", 2, workers=RayWorkers(2, ignore))
    assert set(table["id"].to_pylist()) == {"a", "b"}
