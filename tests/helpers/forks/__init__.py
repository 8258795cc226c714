"""Workers of Ray, commands, and the two agents of a raylet that are forked from three processes,
instead of started, in the tests.

A worker spends ten CPU seconds on the imports of torch, transformers and the like, a command four,
the agents of a Ray two, and the suite has some hundreds of them. A fork has them behind it, and
shares their memory; all else of it is as in a process that was started: environment, folder, output,
exit. Where a test gives its nodes a HOME of their own, their workers start as a user's do; so do all
with `ATGEN_TESTS_FORKS=off`.
"""

import atexit
import ctypes
import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from helpers.forks.hook.sitecustomize import ask_fork

HERE = Path(__file__).parent
ADOPT = 36  # PR_SET_CHILD_SUBREAPER: orphans below this process become its children
VARIABLE = "ATGEN_TESTS_FORKS"
ROLES = ("agents", "workers", "commands")
PATIENCE = 120.0  # seconds, until the servers are ready on a machine that is busy


def start_fork_servers() -> None:
    """Start servers that end with this process, and lead to them the commands and the workers of
    each Ray that this process starts from now on. Until they are ready, processes start by
    themselves.
    """
    if os.environ.get(VARIABLE) == "off":
        return
    folder = tempfile.TemporaryDirectory(prefix="atgen-forks-")
    path = [str(HERE / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {VARIABLE: folder.name, "PYTHONPATH": os.pathsep.join(path)}
    servers = [start_server(folder.name, role) for role in ROLES]

    def stop() -> None:
        for server in servers:
            server.kill()
            server.wait()
        folder.cleanup()

    atexit.register(stop)


def wait_for_fork_server(role: str) -> None:
    """Wait until the server of `role` is ready, where there is to be one. A raylet gives its agents
    fifteen seconds, which they do not keep beside the imports of three servers.
    """
    folder = os.environ.get(VARIABLE, "off")
    deadline = time.monotonic() + PATIENCE
    while folder != "off" and not Path(folder, role).exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def start_server(folder: str, role: str) -> subprocess.Popen[bytes]:
    # A raylet tells its agents so, and they read it at import.
    of_role = (
        {"RAY_enable_pipe_based_agent_to_parent_health_check": "1"} if role == "agents" else {}
    )
    with Path(f"{folder}/{role}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), f"{folder}/{role}"],
            env=os.environ | of_role,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def list_descendants(pid: int) -> list[psutil.Process]:
    """Return the processes below `pid`, and the forks that a raylet among them asked for."""
    below = psutil.Process(pid).children(recursive=True)
    records = Path(os.environ.get(VARIABLE, "off")).glob("*.pids")
    above = {process.pid for process in below}
    pairs = [line.split() for record in records for line in record.read_text().splitlines()]
    # Forks are below too, as long as the server that has them is.
    for fork in {int(fork) for fork, raylet in pairs if int(raylet) in above} - above:
        with suppress(psutil.NoSuchProcess):
            below.append(psutil.Process(fork))
    return below


class Command(subprocess.Popen[str]):
    """A module or code of Python as a process of its own: a fork where the fork server has one, and
    a process that is started otherwise.
    """

    def __init__(self, *arguments: str, **settings: Any) -> None:
        """`arguments` are those of Python, as `-m MODULE` or `-c CODE`; `settings` are those of
        Popen.
        """
        super().__init__([sys.executable, *arguments], text=True, **settings)

    def _execute_child(self, args: list[str], *rest: Any) -> None:
        signature = inspect.signature(super()._execute_child)  # type: ignore[misc]
        given = signature.bind(args, *rest).arguments
        ends = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        streams = [stream if end == -1 else end for stream, end in enumerate(ends)]
        environment = os.environ if given["env"] is None else given["env"]
        folder = str(given["cwd"] or Path.cwd())
        self.pid = fork_command(args[1:], environment, folder, streams)
        if not self.pid:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        self._child_created = True
        for end in {*ends} - {-1}:
            os.close(end)


def run_command(
    *arguments: str, timeout: float = 600.0, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """A `Command` to its end, with what it printed."""
    pipe = subprocess.PIPE
    with Command(*arguments, stdout=pipe, stderr=pipe, **settings) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()  # one that took too long; it does nothing to one that has ended
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def fork_command(
    command: list[str], environment: Mapping[str, str], folder: str, streams: list[int]
) -> int:
    """Return the process id of a fork that runs `command` and is a child of this process; 0 where
    the fork server is off, not ready or of another environment.
    """
    servers = environment.get(VARIABLE, "off")
    if servers == "off":
        return 0
    prctl = ctypes.CDLL(None).prctl
    prctl(ADOPT, 1, 0, 0, 0)
    try:
        pid = ask_fork(
            f"{servers}/commands", command, dict(environment), folder, streams, adopted=True
        )
        while pid and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] != str(
            os.getpid()
        ):
            time.sleep(0.001)
        return pid
    finally:
        prctl(ADOPT, 0, 0, 0, 0)
