"""Runs first in every Python that the tests start: a worker of Ray asks the fork server to take its
place, and ends; an agent of a raylet does so too, and ends with its fork, since the raylet ends with
its agents. Any other Python, and one that is refused, goes on as without this file.
"""

import os
import sys

OF_THE_SCRIPT = ("--serialized-runtime-env-context=", "--language=")


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


def find_worker(arguments: list[str]) -> tuple[list[str], dict[str, str], str] | None:
    """Return script and arguments of a worker of Ray, what its environment has besides, and its
    folder, empty for that of Ray; None for anything else.

    Ray starts a worker by way of a script that prepares what its `runtime_env` asks for; where that
    is nothing but variables and a folder, as in a job, the script need not run.
    """
    import json
    import shlex

    folder, _, script = (arguments[1] if len(arguments) > 1 else "").rpartition("/")
    if not folder.endswith("ray/_private/workers"):
        return None
    if script == "default_worker.py":
        return arguments[1:], {}, ""
    option = "--serialized-runtime-env-context="
    context = next((each for each in arguments if each.startswith(option)), option + "null")
    asked = json.loads(context.removeprefix(option))
    if asked is None or "--language=PYTHON" not in arguments:
        return None
    variables: dict[str, str] = asked.pop("env_vars", {})
    own_python = asked.pop("py_executable", sys.executable) == sys.executable
    prefix: list[str] = asked.pop("command_prefix", [])
    directory = ""
    if len(prefix) == 3 and (prefix[0], prefix[2]) == ("cd", "&&"):
        prefix, [directory] = [], shlex.split(prefix[1])
    if (
        not own_python
        or prefix
        or any(asked.values())
        or any("$" in each for each in variables.values())
    ):
        return None
    worker = arguments.index(f"{folder}/default_worker.py")
    kept = [each for each in arguments[worker:] if not each.startswith(OF_THE_SCRIPT)]
    return kept, variables, directory


def find_agent(arguments: list[str]) -> tuple[list[str], dict[str, str], str] | None:
    """Return script and arguments of an agent of a raylet; None for anything else."""
    for place, argument in enumerate(arguments[:4]):
        if argument.endswith(("ray/dashboard/agent.py", "ray/_private/runtime_env/agent/main.py")):
            return arguments[place:], {}, ""
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
        found = find(sys.orig_argv)
        if found is None:
            continue
        command, variables, directory = found
        folder = directory or os.getcwd()  # noqa: PTH109
        environment = dict(os.environ) | variables
        fork = ask_fork(f"{servers}/{role}", command, environment, folder, [0, 1, 2], False)
        if fork and role == "agents":
            wait_for(fork)
        if fork:
            os._exit(0)


if servers := os.environ.get("ATGEN_TESTS_FORKS"):
    give_place(servers)
