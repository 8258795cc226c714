"""Runs first in every Python that the tests start: a worker of Ray asks the fork server to take its
place, and ends. Any other Python, and a worker that is refused, goes on as without this file.
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


if servers := os.environ.get("ATGEN_TESTS_FORKS"):
    found = find_worker(sys.orig_argv)
    server = f"{servers}/workers"
    if found and ask_fork(server, found, dict(os.environ), os.getcwd(), [0, 1, 2], False):  # noqa: PTH109
        os._exit(0)
