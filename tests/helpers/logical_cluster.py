"""Ray clusters of a size that this machine has not: CPUs and GPUs in Ray's books, which need no
hardware.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from atgen_ray.ray_runtime.workers import KEEPING
from helpers.forks import Command

HEAD = """
import sys, ray
ray.init(address="local", num_cpus={cpus}, num_gpus={gpus}, include_dashboard=False, logging_level="ERROR",
         log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def run_cluster(cpus: int, gpus: int = 0) -> Iterator[dict[str, str]]:
    """A cluster that somebody else started; gives the environment in which our commands find it."""
    environment = {key: value for key, value in os.environ.items() if key not in KEEPING}
    with Command(
        "-c",
        HEAD.format(cpus=cpus, gpus=gpus),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        try:
            address = head.stdout.readline().strip()
            assert address
            yield environment | {"RAY_ADDRESS": address}
        finally:
            head.stdin.close()
            head.wait(60)
