"""Runs first in every Python that the tests start: a worker of Ray asks the fork server to take its
place, and ends; an agent of a raylet does so too, and ends with its fork, since the raylet ends with
its agents. Any other Python, and one that is refused, goes on as without this file.
"""

import os
import sys


def ask_fork(
    path: str,
    command: list[str],
    environment: dict[str, str],
    folder: str,
    streams: list[int],
    adopted: bool,
) -> int:
    """Ask the server at `path` for a fork that runs `command`; return its process id, or 0 where
    there will be none.
    """
    import json
    import socket

    request = {"command": command, "environment": environment, "folder": folder, "adopted": adopted}
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20.0)
        try:
            link.connect(path)
            socket.send_fds(link, [len(body).to_bytes(4, "big")], streams)
            link.sendall(body)
            return int.from_bytes(link.recv(4), "big")
        except OSError:
            return 0


def find_worker(arguments: list[str]) -> list[str] | None:
    """Return script and arguments of a worker of Ray; None for anything else.

    Ray starts a worker by way of a script that prepares what its `runtime_env` asks for; where that
    is nothing, the script need not run.
    """
    folder, _, script = (arguments[1] if len(arguments) > 1 else "").rpartition("/")
    if not folder.endswith("ray/_private/workers"):
        return None
    if script == "default_worker.py":
        return arguments[1:]
    if "--serialized-runtime-env-context={}" in arguments and "--language=PYTHON" in arguments:
        worker = arguments.index(f"{folder}/default_worker.py")
        preparation = ("--serialized-runtime-env-context=", "--language=")
        return [each for each in arguments[worker:] if not each.startswith(preparation)]
    return None


def find_agent(arguments: list[str]) -> list[str] | None:
    """Return script and arguments of an agent of a raylet; None for anything else."""
    for place, argument in enumerate(arguments[:4]):
        if argument.endswith(("ray/dashboard/agent.py", "ray/_private/runtime_env/agent/main.py")):
            return arguments[place:]
    return None


def wait_for(pid: int) -> None:
    """Wait until the process `pid`, which is no child, has ended."""
    import select

    waiting = select.poll()
    waiting.register(os.pidfd_open(pid), select.POLLIN)
    waiting.poll()


def give_place(servers: str) -> None:
    """End this process, at once or with its fork, if a fork does its work."""
    for role, find in (("workers", find_worker), ("agents", find_agent)):
        command = find(sys.orig_argv)
        if command is None:
            continue
        folder = os.getcwd()  # noqa: PTH109
        environment = dict(os.environ)
        fork = ask_fork(f"{servers}/{role}", command, environment, folder, [0, 1, 2], False)
        if fork and role == "agents":
            wait_for(fork)
        if fork:
            os._exit(0)


if found := os.environ.get("ATGEN_TESTS_FORKS"):
    give_place(found)
