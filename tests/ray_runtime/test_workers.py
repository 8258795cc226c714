"""Workers of Ray Data: one made in a process for each pass, in processes that outlive it where Ray
keeps them.
"""

import os
import sys
import time
import weakref
from collections.abc import Callable

import pyarrow as pa
import pytest
import ray

from atgen_ray.ray_runtime.hardware import Device
from atgen_ray.ray_runtime.nodes import find_device
from atgen_ray.ray_runtime.workers import KEEPING, WorkerCache, map_batches, reuse_idle_workers

Pass = Callable[[], list[tuple[str, int]]]

# Ray gives a task any idle process with its environment, so those that other tests left must not
# have this one's: the passes here are those of a machine with this many cores.
CORES = 5


class Scribe:
    """Says which of its kind it is, and where."""

    def __init__(self, kind: str) -> None:
        self.made = f"{kind} {time.monotonic_ns()}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.num_rows
        return batch.append_column("made", [[self.made] * rows]).append_column(
            "pid", pa.array([os.getpid()] * rows)
        )


@pytest.fixture
def one_pass(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> Pass:
    """A pass of 6 blocks of 2 rows through one worker: who worked off each row, and in which
    process.
    """
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(CORES), raising=False)

    def one_pass() -> list[tuple[str, int]]:
        blocks = [pa.table({"row": [2 * block, 2 * block + 1]}) for block in range(6)]
        rows = map_batches(
            ray.data.from_arrow(blocks),
            Scribe,
            ("scribe",),
            workers=1,
            cpus=1.0,
            gpus=0.0,
        ).take_all()
        assert sorted(row["row"] for row in rows) == list(range(12))
        return [(row["made"], row["pid"]) for row in rows]

    return one_pass


def test_a_process_outlives_the_pass_and_its_worker_does_not(one_pass: Pass) -> None:
    (first,), (second,) = set(one_pass()), set(one_pass())
    assert first[1] == second[1]
    assert first[0] != second[0]


def test_elsewhere_actors_end_with_their_pass(
    one_pass: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEEPING:
        monkeypatch.delenv(key)
    (first,), (second,) = set(one_pass()), set(one_pass())
    assert first[1] != second[1]


def test_a_worker_without_work_is_let_go() -> None:
    holder = WorkerCache(unused_seconds=0.3)
    made: list[weakref.ref[Scribe]] = []

    def make(kind: str) -> Scribe:
        scribe = Scribe(kind)
        made.append(weakref.ref(scribe))
        return scribe

    batch = pa.table({"row": [1]})
    for step in ("a", "a", "b"):
        holder.run_batch(batch, step, make, (step,))
    assert [worker() is None for worker in made] == [True, False]
    deadline = time.monotonic() + 30
    while made[1]() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    holder.run_batch(batch, "b", make, ("b",))
    holder.release()  # as for a training in the same process
    assert len(made) == 3
    assert made[2]() is None


def test_settings_of_the_user_and_of_other_clusters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = KEEPING
    monkeypatch.setenv(mine, "7")
    monkeypatch.delenv(other, raising=False)
    with reuse_idle_workers():
        assert (os.environ[mine], os.environ[other]) == ("7", KEEPING[other])
    assert os.environ[mine] == "7"
    assert other not in os.environ


def test_gpus_that_no_node_has_yet_are_taken_for_cuda(ray_session: None) -> None:
    assert find_device(4.0) == Device(cuda=True, bfloat16=True)
