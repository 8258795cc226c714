"""The training of a run by one of two controllers, which may stop itself at a point of it."""

import json
import os
import signal
import sys
from contextlib import closing
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.core.errors import LeaseLostError
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.runs.controller import Controller
from atgen_ray.store.journal import Journal
from atgen_ray.store.object_files import ObjectFiles
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import StepOutputs, name_attempt
from helpers.annotation_desk import quiet

SECONDS = 0.5  # of the first lease
ADAPTER = "rounds/001/adapter"
VIEW = "metrics.json"
LOST = 3  # exit status of a controller that noticed
# Where the first controller stops, and whose weights the journal then names.
POINTS = {
    "made, not sealed": (StepOutputs, "seal", 1, "second"),
    "sealed, not recorded": (Journal, "append", 1, "second"),
    "recorded, not named": (RunFolder, "take_in", 1, "first"),
    "named in part": (RunFolder, "take_in", 2, "first"),
    "about to rewrite a view": (RunFolder, "write_json", 3, "first"),
}
LATE = "about to put"
STOPS: dict[str, tuple[Any, str, int, str]] = {**POINTS, LATE: (ObjectFiles, "_swap", 1, "first")}


def configure(storage: str, seed: int) -> RunConfig:
    tree = {"name": "demo", "data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}}
    return parse_config(tree | {"storage": storage, "seed": seed})


def drive(storage: str, url: str, name: str, point: str | None = None) -> None:
    """Trains round 1 as a controller does and rewrites a view, under a lease on another machine."""
    seed = {"first": 1, "second": 2}[name]
    config = configure(storage, seed)
    with closing(Journal(url)) as journal:
        owner = ProcessIdentity(name, host=name, pid=2**22 + 1, started=0.0, machine=name)
        ttl = SECONDS if name == "first" else 60
        lease = journal.acquire(config.name, owner, ttl)
        folder = RunFolder(storage, config.name).fenced(name_attempt(lease), lease.renew)
        controller = Controller(config, journal, lease, folder, ProgressTracker(), quiet)
        if point:
            stop_at(point)

        def train(_: object, out: RunFolder) -> None:
            with out.publish(ADAPTER) as output:
                (output / "adapter_config.json").write_text(json.dumps({"by": name}))
                (output / "adapter_model.safetensors").write_bytes(name.encode() * 50_000)
            out.write_json("rounds/001/training.json", {"by": name})

        controller.recover()
        controller.committer.commit(1, "training", ADAPTER, train)
        lease.renew()
        folder.write_json(VIEW, {"by": name})
        lease.release()


def stop_at(point: str) -> None:
    """Has this process stop itself as it is about to do something for the n-th time."""
    owner, method, count, _ = STOPS[point]
    real = getattr(owner, method)
    left = [count]

    def stopping(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return real(*arguments, **named)

    setattr(owner, method, stopping)


def drive_first(storage: str, url: str, point: str | None, environment: dict[str, str]) -> None:
    os.environ |= environment
    try:
        drive(storage, url, "first", point)
    except LeaseLostError:
        sys.exit(LOST)
