"""Runs first in every Python that the tests start: a worker of Ray asks the fork server to take its
place, and ends. Any other Python, and a worker that is refused, goes on as without this file.
"""

import os
import sys


def take_place(path: str, command: list[str]) -> bool:
    """Ask the server at `path` for a fork that runs `command`; return whether it does."""
    import json
    import socket

    request = {"command": command, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20.0)
        try:
            link.connect(path)
            socket.send_fds(link, [len(body).to_bytes(4, "big")], [0, 1, 2])
            link.sendall(body)
            return link.recv(1) == b"y"
        except OSError:
            return False


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


if server := os.environ.get("ATGEN_TESTS_FORKS"):
    found = find_worker(sys.orig_argv)
    if found and take_place(server, found):
        os._exit(0)
