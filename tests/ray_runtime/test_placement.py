"""What may be reserved of a cluster in use, and what is told where something finds no room."""

from collections.abc import Iterator

import pytest
from helpers.forks import run_command
from helpers.logical_cluster import run_cluster

ASK = """
import os, ray, time
from atgen_ray.core.errors import UserError
from atgen_ray.ray_runtime.placement import check_gpus, describe_waiting, fit_gpus

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)

class Holder:
    def ready(self):
        return True

def hold(num_gpus, num_cpus=0):
    holder = ray.remote(Holder).options(num_gpus=num_gpus, num_cpus=num_cpus).remote()
    ray.get(holder.ready.remote())
    return holder

def wait_for(look):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not look():
        time.sleep(0.2)
    return look()

def shares():
    return [fit_gpus("key", workers, asked) for workers, asked in ((1, None), (1, 0.25), (2, 1.0), (3, 1.0), (1, 2))]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Two CPUs, two GPUs."""
    with run_cluster(cpus=2, gpus=2) as environment:
        yield environment


def ask(cluster: dict[str, str], script: str) -> str:
    """What `script` prints, in a process on the cluster."""
    done = run_command("-c", ASK + script, env=cluster, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_shares_are_of_what_is_free(cluster: dict[str, str]) -> None:
    script = """
print(shares())
holders = [hold(num_gpus=0.6), hold(num_gpus=1)]
wait_for(lambda: fit_gpus("key", 1, None) == 0.4)
print(shares())
holders.append(hold(num_gpus=0.4))
wait_for(lambda: fit_gpus("key", 1, None) == 1)
print(shares())
"""
    free, held, full = ask(cluster, script).splitlines()
    assert free == "[1.0, 0.25, 1.0, 0.5, 2]"
    assert held == "[0.4, 0.25, 0.2, 0.1333, 2]"
    assert full == "[1.0, 0.25, 1.0, 1.0, 2]"  # nothing is: they wait for all of it


def test_what_this_process_holds_for_later_is_given_back(cluster: dict[str, str]) -> None:
    script = """
from atgen_ray.ray_runtime.placement import free_when_wanted, has_room

class Keeper:
    def __init__(self, gpus):
        self.actor = hold(num_gpus=gpus)
        # Ray counts them as free for a moment still.
        assert wait_for(lambda: not has_room([{"GPU": 3.0 - gpus}]))
        free_when_wanted(self)
    def give_back(self):
        ray.kill(self.actor)

keeper = Keeper(2)
assert fit_gpus("key", 1, 0.0) == 0 and ray.get(keeper.actor.ready.remote())
gpus = fit_gpus("key", 1, 1.0)
print(gpus, ray.get(ray.remote(num_cpus=0, num_gpus=gpus)(lambda: "placed").remote(), timeout=60))
wait_for(lambda: ray.available_resources().get("GPU") == 2)
keeper = Keeper(1)
print(fit_gpus("key", 1, 1.0), ray.get(keeper.actor.ready.remote()))
print(fit_gpus("key", 1, 2.0), wait_for(lambda: ray.available_resources().get("GPU") == 2))
"""
    placed, beside, both = ask(cluster, script).splitlines()
    assert placed == "1.0 placed"
    assert beside == "1.0 True"  # there is room: it keeps what it has
    assert both == "2.0 True"


def test_what_waits_and_what_is_free_is_told_until_it_is_placed(cluster: dict[str, str]) -> None:
    script = """
holder = hold(num_gpus=0.5, num_cpus=1.5)
assert describe_waiting() is None
task = ray.remote(num_cpus=1, num_gpus=1)(lambda: 1).remote()
wait_for(describe_waiting)
print(describe_waiting())
print(describe_waiting(gpus=False))
large = ray.remote(num_cpus=0, num_gpus=3)(lambda: 1).remote()
wait_for(lambda: "3 GPUs" in describe_waiting())
print(describe_waiting())
ray.cancel(large)
ray.kill(holder)
ray.get(task)
print(wait_for(lambda: describe_waiting() is None))
"""
    waits, without, large, placed = ask(cluster, script).splitlines()
    assert waits == "Ray cannot place 1 CPU and 1 GPU: free are 0.5 of 2 CPUs and 1.5 of 2 GPUs"
    assert without == "None"
    assert large.endswith("; no node has ever room for 3 GPUs")
    assert placed == "True"


def test_what_no_node_has_is_refused(cluster: dict[str, str]) -> None:
    script = """
check_gpus("key", 2)
check_gpus("key", 1, workers=2)
for gpus, workers in ((3, 1), (1, 3)):
    try:
        check_gpus("some.key", gpus, workers)
    except UserError as error:
        print(error)
"""
    large, many = ask(cluster, script).splitlines()
    assert large.startswith(
        "some.key is 3, expected no more than this Ray cluster has: 2 GPUs, 2 on its largest node"
    )
    assert many.startswith("some.key is 1 for each of 3 workers")
