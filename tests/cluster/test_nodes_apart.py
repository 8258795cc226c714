"""Three nodes that share nothing but an object store: the head has no CPUs and no vLLM, the work is
done on the two others, each with its own HOME, cache, temporary and working folder.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.apart import NodesApart, run_apart
from helpers.object_store import ObjectStore, run_object_store
from helpers.projects import Project, make_project_in

CHOOSE = """
import ray
from atgen_ray.config import EngineConfig
from atgen_ray.engines.choice import choose_on_nodes
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
print(choose_on_nodes(EngineConfig()))
"""


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with run_object_store() as store:
        yield store


@pytest.fixture(scope="module")
def cluster(
    store: ObjectStore, tiny_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodesApart]:
    """The cluster, with the project `sort` on the head, and its data and model in the store."""
    with run_apart(tmp_path_factory.mktemp("apart"), **store.environment) as cluster:
        cluster.add(cpus=0, hidden="vllm")
        cluster.add(cpus=2)
        cluster.add(cpus=2, hidden="vllm")
        work = cluster.head.folder / "work"
        make_project_in(work, f"s3://{store.bucket}/models/tiny")
        store.upload(Path(tiny_model), "models/tiny")
        store.upload(work, "data")
        cluster.wait()
        yield cluster


def test_what_other_nodes_do_not_have_is_told_before_the_run(cluster: NodesApart) -> None:
    done = cluster.run("run", "sort.yaml", "engine.backend=auto")
    assert done.returncode == 2, done.stderr
    work = cluster.head.folder / "work"
    expected = [
        "storage is './atgen-runs', a folder that not all machines of this Ray cluster share",
        f"data.pool is 'pool.jsonl', which not all machines of this Ray cluster have at {work}/pool.jsonl",
        f"data.test is 'test.jsonl', which not all machines of this Ray cluster have at {work}/test.jsonl",
        "engine.backend is 'auto', and vllm is installed on 127.0.0.3 but not on 127.0.0.4",
    ]
    lines = done.stderr.splitlines()
    for line in expected:
        assert sum(line in each for each in lines) == 1, (line, done.stderr)
    assert not (work / "atgen-runs/runs").exists()


def test_a_run_ends_as_on_one_machine(
    cluster: NodesApart, store: ObjectStore, finished: Project, tmp_path: Path
) -> None:
    work = cluster.head.folder / "work"
    bucket = f"s3://{store.bucket}"
    done = cluster.run(
        *("run", "sort.yaml", "--storage", bucket, "stopping.rounds=1"),
        *(f"data.{split}={bucket}/data/{split}.jsonl" for split in ("pool", "test")),
        f"database_url=sqlite:///{work}/atgen.db",
        # Only one fits on a node.
        *("engine.workers=2", "engine.cpus_per_worker=1.2"),
    )
    assert done.returncode == 0, done.stderr
    store.download(tmp_path / "atgen-runs")
    project = Project(tmp_path)
    for file in ("selection.parquet", "annotations.jsonl", "predictions.jsonl", "features.parquet"):
        found, expected = (each.read("sort", f"rounds/001/{file}") for each in (project, finished))
        assert [drop_times(row) for row in found] == [drop_times(row) for row in expected]
    curves = [
        [(row["round"], row["labels"], row["metrics"]) for row in each.read("sort", "metrics.json")]
        for each in (project, finished)
    ]
    assert curves[0] == curves[1][:2]
    assert (
        "engine: transformers, float32 on the CPU on 127.0.0.3 and 127.0.0.4: engine.backend is "
        "transformers"
    ) in " ".join(done.stdout.split())
    # The weights were fetched where the work is done, and the head has nothing of its own.
    assert any("adapter" in node.copies for node in cluster.nodes[1:])
    assert {"tiny"} == cluster.nodes[1].copies & cluster.nodes[2].copies & {"tiny"}
    assert "adapter" not in cluster.head.copies


def test_an_engine_is_chosen_by_the_nodes_that_have_it(cluster: NodesApart) -> None:
    """The head has no vLLM; once the other node without it is gone, all workers have it."""
    cluster.nodes[2].kill()
    cluster.wait()
    environment = cluster.head.environment
    done = subprocess.run(
        [sys.executable, "-c", CHOOSE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "vllm"


def drop_times(row: dict[str, object]) -> dict[str, object]:
    """A row without what differs between two runs of the same content."""
    provenance = row.get("provenance")
    kept = {key: value for key, value in row.items() if key != "provenance"}
    if isinstance(provenance, dict):
        kept["provenance"] = {
            key: provenance[key] for key in provenance.keys() - {"when", "request"}
        }
    return kept
