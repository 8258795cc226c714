"""Ray clusters of our own, apart from those of other tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from atgen_ray.ray_runtime.workers import KEEPING
from helpers.ports import free_port

RAY = str(Path(sys.executable).with_name("ray"))


@contextmanager
def start_head(logs: Path) -> Iterator[dict[str, str]]:
    """A head node that takes jobs; gives the environment in which `ray job` and `serve` find it.

    It keeps idle workers by the two settings of docs/clusters.md; other clusters of these tests
    are without them.
    """
    dashboard = free_port()
    # Short, for the names of sockets, and apart, so that no later `ray.init()` takes this cluster
    # for a living one.
    temporary = tempfile.mkdtemp(prefix="ray-")
    command = [RAY, "start", "--head", "--block", "--num-cpus=4", f"--temp-dir={temporary}"]
    command += [f"--port={free_port()}", f"--dashboard-port={dashboard}"]
    command += [
        f"--dashboard-agent-listen-port={free_port()}"
    ]  # else taken where another Ray runs on this machine
    log = (logs / "head.log").open("w")
    others = os.environ | KEEPING
    head = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=others
    )
    address = f"http://127.0.0.1:{dashboard}"
    environment = os.environ | {"RAY_ADDRESS": address, "RAY_DASHBOARD_ADDRESS": address}
    try:
        _wait_until_ready(address, logs / "head.log")
        yield environment
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(60)
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_until_ready(dashboard: str, log: Path) -> None:
    deadline, said = time.monotonic() + 90, "nothing"
    while time.monotonic() < deadline:
        # The head lists jobs some seconds before there is an agent that takes one.
        try:
            answer = httpx.post(f"{dashboard}/api/jobs/", json={"entrypoint": "true"}, timeout=60)
        except httpx.TransportError as error:
            said = str(error)
        else:
            if answer.status_code == 200:
                return
            said = answer.text
        time.sleep(0.5)
    pytest.fail(f"no head node that takes a job: {log.read_text()}{said}")
