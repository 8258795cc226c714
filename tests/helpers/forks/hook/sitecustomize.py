"""Runs first in every Python that the tests start. A worker of Ray asks the fork server to take its
place, and ends; a process that `multiprocessing` spawns stays as the stand-in of its fork. Any other
Python, and one that is refused, goes on as without this file.
"""

import os
import sys

SPAWNED = "--multiprocessing-fork"


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


def find_spawned(arguments: list[str]) -> list[str] | None:
    """Return the option -c, its code and the arguments of a spawned process; None for anything
    else.
    """
    return arguments[arguments.index("-c") :] if arguments[-1] == SPAWNED else None


def take_place(path: str, command: list[str], stays: bool) -> None:
    """Ask the server at `path` for a fork that runs `command`. If it does, end at once, or with the
    fork where this process `stays`; return otherwise.
    """
    import json
    import signal
    import socket

    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    descriptors = [each for each in listed if os.path.exists(f"/proc/self/fd/{each}")]  # noqa: PTH110
    request = {
        "command": command,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "descriptors": descriptors,
        "stays": stays,
    }
    body = json.dumps(request).encode()
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(20.0)
    try:
        link.connect(path)
        socket.send_fds(link, [len(body).to_bytes(4, "big")], descriptors)
        link.sendall(body)
        fork = int.from_bytes(link.recv(4), "big")
    except OSError:
        fork = 0
    if not fork:
        link.close()
        return
    if not stays:
        os._exit(0)
    link.settimeout(None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(fork, number))
    status = link.recv(1)  # until the fork ends; the fork ends if this process does
    os._exit(status[0] if status else 1)


if server := os.environ.get("ATGEN_TESTS_FORKS"):
    if worker := find_worker(sys.orig_argv):
        take_place(server, worker, stays=False)
    elif spawned := find_spawned(sys.orig_argv):
        take_place(server, spawned, stays=True)
