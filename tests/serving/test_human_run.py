"""Whole runs that people label over HTTP, in rounds and all at once; real models and replicas, a
killed controller.
"""

import json
import time
from typing import Any

import ray
import yaml
from helpers.labelling import label
from helpers.services import Service

from atgen_ray.ray_runtime.session import NAMESPACE
from atgen_ray.runs.controller_actor import actor_name


def config(service: Service, name: str, **annotator: Any) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((service.project.folder / "sort.yaml").read_text())
    for key in ("pool", "test"):
        tree["data"][key] = str(service.project.folder / tree["data"][key])
    tree["data"] |= {"references": None, "test_references": "answers"}
    tree["annotator"] = {"type": "human", "price_per_label": 0.5, "settle_seconds": 0.2} | annotator
    return tree | {
        "name": name,
        "evaluation": {"zero_shot": False},
        "selection": {"strategy": "huds", "count": 3},
    }


def wait(client: Any, name: str, *states: str) -> Any:
    deadline = time.monotonic() + 600
    while (view := client.get(f"/api/v1/runs/{name}").json())["status"] not in states:
        assert time.monotonic() < deadline, view
        time.sleep(0.5)
    return view


def test_people_label_a_run_in_rounds_and_its_controller_dies(service: Service) -> None:
    with service.client() as admin, service.client(service.annotator) as person:
        started = admin.post("/api/v1/runs", json=config(service, "by-hand", mode="rounds"))
        assert started.status_code == 202, started.text
        first = label(person, "by-hand", 2)
        assert {task["suggestion"]["round"] for task in first if task["suggestion"]} <= {0}
        assert {task["why"]["strategy"] for task in first} == {"huds"}
        ray.kill(ray.get_actor(actor_name("by-hand"), namespace=NAMESPACE), no_restart=False)
        rest = label(person, "by-hand", 1)
        second = label(person, "by-hand", 3)
        assert {task["round"] for task in first + rest} == {1}
        assert {
            (task["round"], task["suggestion"]["round"]) for task in second if task["suggestion"]
        } <= {(2, 1)}
        view = wait(admin, "by-hand", "finished", "failed")
        assert view["status"] == "finished", view
        assert (view["labels"], view["dollars"]) == (6, 3.0)
        rows = [
            json.loads(line) for line in admin.get("/api/v1/runs/by-hand/export").text.splitlines()
        ]
        labelled = first + rest + second
        assert {row["id"]: row["text"] for row in rows} == {
            task["id"]: f"label of {task['id']}" for task in labelled
        }
        assert {row["annotator"] for row in rows} == {"human/tests"}
        told = [event for event in view["events"] if event["kind"] == "awaiting-human"]
        assert [event["round"] for event in told] == [1, 2]
        archive = admin.get("/api/v1/runs/by-hand/export?format=huggingface")
        assert archive.content[:2] == b"PK"


def test_in_experimental_design_all_tasks_are_up_at_once(service: Service) -> None:
    with service.client() as admin, service.client(service.annotator) as person:
        assert admin.post("/api/v1/runs", json=config(service, "designed")).status_code == 202
        tasks = label(person, "designed", 6)
        assert {task["round"] for task in tasks} == {1}
        view = wait(admin, "designed", "finished", "failed")
        assert view["status"] == "finished", view
        assert [row["labels"] for row in view["metrics"]] == [6]
        progress = person.get("/api/v1/runs/designed/tasks/progress").json()
        assert (progress["done"], progress["total"], progress["own"]["submitted"]) == (6, 6, 6)


def test_a_run_outlives_its_controller_and_the_api(service: Service) -> None:
    """The controller and the replica of the API die together, as with a service that is killed; the
    replica that comes instead goes on with the run, which is then stopped and removed.
    """
    with service.client() as admin:
        tree = config(service, "forsaken")
        assert admin.post("/api/v1/runs", json=tree).status_code == 202
        tell(admin, "forsaken", "awaiting-human")
        ray.kill(ray.get_actor(actor_name("forsaken"), namespace=NAMESPACE), no_restart=True)
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if actor["name"].startswith("SERVE_REPLICA::atgen#api#"):
                ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))
        tell(admin, "forsaken", "resumed")
        wait(admin, "forsaken", "running")
        removal = {"confirm": "forsaken"}
        refused = admin.request("DELETE", "/api/v1/runs/forsaken", json=removal)
        assert refused.status_code == 409, refused.text
        admin.post("/api/v1/runs/forsaken/stop")
        view = wait(admin, "forsaken", "stopped")
        assert [event["kind"] for event in view["events"]].count("resumed") == 1
        gone = admin.request("DELETE", "/api/v1/runs/forsaken", json=removal)
        assert gone.status_code == 200, gone.text
        assert admin.get("/api/v1/runs/forsaken").status_code == 404
        assert not (service.storage / "runs/forsaken").exists()


def test_a_run_that_is_handed_over_goes_on_and_people_keep_their_tasks(service: Service) -> None:
    """As by a service that is told to end; another one, here the same, takes the run at once."""
    with service.client() as admin, service.client(service.annotator) as person:
        assert admin.post("/api/v1/runs", json=config(service, "handed")).status_code == 202
        tell(admin, "handed", "awaiting-human")
        lease = "/api/v1/runs/handed/tasks/lease"
        before = person.post(lease, json={"count": 2}).json()["tasks"]
        ray.get_actor(actor_name("handed"), namespace=NAMESPACE).hand_over.remote()
        tell(admin, "handed", "handed-over")
        tell(admin, "handed", "resumed")
        view = wait(admin, "handed", "running")
        kinds = [event["kind"] for event in view["events"]]
        assert {"stopped", "failed"} & set(kinds) == set()
        assert kinds.count("requested") == 1  # by whom it was started, as the log has it
        again = person.post(lease, json={"count": 2}).json()["tasks"]
        assert [task["id"] for task in again] == [task["id"] for task in before]
        admin.post("/api/v1/runs/handed/stop")
        wait(admin, "handed", "stopped")


def tell(client: Any, name: str, kind: str) -> None:
    """Waits until the run has an event, whether or not the service answers meanwhile."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        answer = client.get(f"/api/v1/runs/{name}")
        events = answer.json()["events"] if answer.status_code == 200 else []
        if kind in [event["kind"] for event in events]:
            return
        time.sleep(0.5)
    raise AssertionError(f"no event {kind}: {answer.text[:500]}")
