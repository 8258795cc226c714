"""A run on two nodes, one of which dies on the way, ends as an undisturbed run on one."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest
from projects import Project, read_until
from ray.cluster_utils import Cluster

# What the run does when the node dies: the kind of line that tells it, with its round and step.
MOMENTS = [
    ("event", 0, "pool"),
    ("progress", 1, "generation"),
    ("progress", 1, "training"),
    ("progress", 2, "evaluation"),
]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with one CPU, so that the work lies on other nodes."""
    temporary = tempfile.mkdtemp(prefix="ray-")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": temporary})
    yield cluster
    cluster.shutdown()
    shutil.rmtree(temporary, ignore_errors=True)


def test_a_run_outlives_its_nodes(cluster: Cluster, finished: Project, make_project: Callable[[], Project]) -> None:
    project = make_project()
    node = cluster.add_node(num_cpus=2)
    process = project.start("run", "sort.yaml", "--json", RAY_ADDRESS=cluster.address)
    for moment in MOMENTS:
        assert read_until(process, *moment), f"the run ended before {moment}"
        cluster.remove_node(node, allow_graceful=False)
        node = cluster.add_node(num_cpus=2)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert json.loads(out.splitlines()[-1])["status"] == "finished"
    for file in ("rounds/001/selection.parquet", "rounds/002/selection.parquet", "labeled.jsonl"):
        assert project.read("sort", file) == finished.read("sort", file), file
    curve, expected = ([row["metrics"] for row in each.read("sort", "metrics.json")] for each in (project, finished))
    assert curve == expected
