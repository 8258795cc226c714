"""A run submitted as a Ray job to a cluster that somebody else started: stopped there, and resumed
by a second job.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from helpers.command_line import Ended, call
from helpers.forks import run_command
from helpers.projects import Project

RAY = ("-m", "ray.scripts.scripts")  # what the command `ray` runs


def test_a_job_is_stopped_and_a_second_one_resumes_it(
    cluster: dict[str, str], make_project: Callable[[], Project], tmp_path: Path
) -> None:
    project = make_project()
    storage = str(tmp_path / "runs")
    first = _submit(project, cluster, storage, "--no-wait", "--submission-id", "first")
    assert first.returncode == 0, first.stderr
    _wait_for_step(cluster, storage, "selection")
    # What `ray job stop` sends: the command itself takes seconds to start, as long as the run takes.
    stopped = httpx.post(f"{cluster['RAY_ADDRESS']}/api/jobs/first/stop", timeout=120)
    assert stopped.json() == {"stopped": True}
    assert _wait_for_end(storage) == "stopped"

    address = {"--address": cluster["RAY_ADDRESS"], "--storage": storage}
    second = project.run(
        "submit", "sort.yaml", *(each for pair in address.items() for each in pair)
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert "all rounds done" in second.stdout
    view = json.loads(_show(storage).out)
    assert view["status"] == "finished"
    assert view["labels"] == 10
    steps = [(event["round"], event["step"]) for event in view["events"] if event["kind"] == "step"]
    assert len(steps) == len(set(steps))


def _submit(
    project: Project, cluster: dict[str, str], storage: str, *options: str
) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "atgen_ray.cli", "run", "sort.yaml", "--storage", storage]
    command = ("job", "submit", "--working-dir", str(project.folder), *options, "--", *run)
    return run_command(*RAY, *command, env=cluster, timeout=400)


def _show(storage: str) -> Ended:
    """How the run stands, asked in this process: a command for each look would take the job's CPUs."""
    return call("runs", "show", "sort", "--storage", storage, "--json")


def _wait_for_step(cluster: dict[str, str], storage: str, step: str) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        shown = _show(storage)
        if shown.status == 0 and any(
            event["step"] == step for event in json.loads(shown.out)["events"]
        ):
            return
        time.sleep(0.2)
    logs = run_command(*RAY, "job", "logs", "first", env=cluster, timeout=60)
    pytest.fail(f"the job never came to {step}: {logs.stdout} {logs.stderr}")


def _wait_for_end(storage: str) -> str:
    """The status of the run once it no longer runs; the journal may be a moment behind the job."""
    deadline = time.monotonic() + 60
    while True:
        status = json.loads(_show(storage).out)["status"]
        if status != "running" or time.monotonic() > deadline:
            return str(status)
        time.sleep(0.5)
