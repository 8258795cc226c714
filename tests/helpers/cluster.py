"""A cluster of two nodes on this machine, of which the second may die and be replaced."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from atgen_ray.ray_runtime.workers import KEEPING
from helpers.apart import LOOKS


@dataclass
class TwoNodes:
    """A running cluster; the driver and its controller sit on the first node."""

    cluster: Cluster
    second: Any

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def replace_node(self) -> None:
        """Kills the second node with all that runs on it, and adds another."""
        for process in self.second.all_processes["raylet"]:
            os.kill(process.process.pid, signal.SIGKILL)
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = self.cluster.add_node(num_cpus=3)


@contextmanager
def run_cluster() -> Iterator[TwoNodes]:
    """Two nodes; most of the CPUs are on the second. Nothing keeps their workers, as where others
    start the cluster.
    """
    with pytest.MonkeyPatch.context() as patch:
        for key in KEEPING:
            patch.delenv(key, raising=False)
        settings = {"health_check_period_ms": LOOKS}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": settings}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield TwoNodes(cluster, cluster.add_node(num_cpus=3))
        finally:
            cluster.shutdown()
