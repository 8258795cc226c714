"""Runs over HTTP, generating in the service's own replicas while callers use them."""

import json
import time
from typing import Any

import ray
import yaml
from helpers.services import Service

from atgen_ray.ray_runtime.session import NAMESPACE
from atgen_ray.runs.controller_actor import actor_name


def config(service: Service, name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((service.project.folder / "sort.yaml").read_text())
    for key in ("pool", "test"):
        tree["data"][key] = str(service.project.folder / tree["data"][key])
    tree["name"] = name
    tree["model"]["host"] = "serve"
    return tree


def test_a_run_given_over_http_goes_through_the_replicas_to_its_end(service: Service) -> None:
    tree = config(service, "served")
    with service.client() as client:
        assert client.post("/api/v1/runs", json=tree | {"storage": "/tmp"}).status_code == 400
        outside = tree | {"data": tree["data"] | {"pool": "/etc/passwd"}}
        assert client.post("/api/v1/runs", json=outside).status_code == 400
        started = client.post("/api/v1/runs", json=tree)
        assert started.status_code == 202, started.text
        assert client.post("/api/v1/runs", json=tree | {"seed": 7}).status_code == 409
        events = []
        with client.stream("GET", "/api/v1/runs/served/events", timeout=600) as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    events.append(line.removeprefix("event: "))
                elif line.startswith("data: ") and events[-1] == "end":
                    assert json.loads(line.removeprefix("data: "))["status"] == "finished", (
                        client.get("/api/v1/runs/served").text
                    )
        own = client.get("/api/v1/runs/sort").json()["events"]
        assert events.count("step") == sum(event["kind"] == "step" for event in own)
        view = client.get("/api/v1/runs/served").json()
        assert view["labels"] == 10
        assert len(client.get("/api/v1/runs/served/metrics").json()) == 3
        exported = client.get("/api/v1/runs/served/export?format=jsonl").text.splitlines()
        assert len(exported) == 10
    # The replicas gave what engines of a run's own give: equal picks and labels.
    for file in ("rounds/001/selection.parquet", "labeled.jsonl"):
        own = service.project.read("sort", file)
        served = _read(service, "served", file)
        assert [row["id"] for row in served] == [row["id"] for row in own], file
    names = [model.id for model in service.openai().models.list()]
    assert {"tiny:served-1", "tiny:served-2"} <= set(names)


def test_a_stopped_run_is_resumed(service: Service) -> None:
    with service.client() as client:
        assert client.post("/api/v1/runs", json=config(service, "halted")).status_code == 202
        _wait(client, "halted", lambda view: [e for e in view["events"] if e["kind"] == "step"])
        assert "asked to stop" in client.post("/api/v1/runs/halted/stop").json()["message"]
        _wait(client, "halted", lambda view: view["status"] == "stopped")
        again = client.post("/api/v1/runs/halted/retry", params={"only": "refused"})
        assert (again.status_code, again.json()["message"][:13]) == (202, "nothing ended"), (
            again.text
        )
        assert client.post("/api/v1/runs/halted/resume").status_code == 202  # it goes on already
        told = client.get(
            "/api/v1/runs/halted/events"
        ).text  # asked for at once, it follows the new attempt to its end
        assert json.loads(told.rstrip().rpartition("data: ")[2]) == {"status": "finished"}, told[
            -300:
        ]
        view = _wait(client, "halted", lambda view: view["status"] in ("finished", "failed"))
    assert view["status"] == "finished", view
    steps = [(event["round"], event["step"]) for event in view["events"] if event["kind"] == "step"]
    assert len(steps) == len(set(steps))


def test_a_replica_killed_under_a_run_changes_nothing(service: Service) -> None:
    """Serve starts another, and what was in flight is sent again."""
    tree = config(service, "robbed")
    tree["engine"]["batch_size"] = 5  # many small ones, so that the kill falls among them
    with service.client() as client:
        before = client.get("/api/v1/runs/sort").json()["dead_letters"]
        assert client.post("/api/v1/runs", json=tree).status_code == 202
        _wait(
            client,
            "robbed",
            lambda view: any(event["step"] == "embedding" for event in view["events"]),
        )
        controller = ray.get_actor(actor_name("robbed"), namespace=NAMESPACE)
        activity: dict[str, Any] = {}
        while not (activity.get("step") == "generation" and activity["done"]):
            time.sleep(0.05)
            snapshot = ray.get(controller.poll.remote(0))
            assert snapshot.status == "running", snapshot
            activity = snapshot.activity
        _kill_replicas()
        view = _wait(client, "robbed", lambda view: view["status"] in ("finished", "failed"))
    assert view["status"] == "finished", view
    assert view["dead_letters"] == before
    for file in ("rounds/001/selection.parquet", "rounds/002/selection.parquet", "labeled.jsonl"):
        picks, own = _read(service, "robbed", file), service.project.read("sort", file)
        assert [row["id"] for row in picks] == [row["id"] for row in own], file


def _kill_replicas() -> None:
    names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
    replicas = [name for name in names if name.startswith("SERVE_REPLICA::atgen#model#")]
    assert replicas
    for name in replicas:
        ray.kill(ray.get_actor(name, namespace="serve"))


def _wait(client: Any, name: str, done: Any) -> Any:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        view = client.get(f"/api/v1/runs/{name}").json()
        if done(view):
            return view
        time.sleep(0.5)
    raise AssertionError(view)


def _read(service: Service, run: str, file: str) -> Any:
    import pyarrow.parquet as pq

    path = service.storage / "runs" / run / file
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]
