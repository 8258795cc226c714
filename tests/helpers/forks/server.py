"""A process that has imported what workers of Ray import, and is forked for each that asks.

Run as `python server.py SOCKET`. It imports nothing of Ray, which reads its settings from the
environment at import.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import random
import re
import runpy
import signal
import socket
import sys
import threading
from typing import Any

# Variables that are read at import: a worker for which one of them differs is not forked.
READ_AT_IMPORT = (
    *("HF_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_"),
    *("PYTHON", "LD_", "PATH", "HOME", "ACCELERATE_", "BNB_", "TZ", "LANG", "LC_"),
)
REFUSED = bytes(4)  # in place of the number of a process
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG; forks do not inherit it
ASIDE = 500  # file descriptors from here on are free
PACKAGES = (
    "sentence_transformers",
    "peft",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bert.modeling_bert",
    "pandas",
    "pyarrow.compute",
    "pyarrow.parquet",
    "datasketch",
    "rouge_score.rouge_scorer",
    "sqlalchemy",
    "jinja2.sandbox",
    "atgen_ray.config",
)


def import_packages() -> None:
    """Import what most workers of a run need."""
    for package in PACKAGES:
        importlib.import_module(package)
    assert "ray" not in sys.modules


def keep_read_at_import(environment: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(READ_AT_IMPORT)}


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a request and the file descriptors that came with it."""
    head, descriptors, _, _ = socket.recv_fds(link, 4, 100)
    body = b""
    while len(body) < int.from_bytes(head, "big"):
        part = link.recv(1 << 16)
        if not part:
            raise ConnectionError("the request ends too soon")
        body += part
    return json.loads(body), descriptors


def serve(path: str) -> tuple[dict[str, Any], list[int], socket.socket]:
    """Answer requests for ever; return, in a fork alone, what it shall run, its file descriptors
    and its connection.
    """
    own = keep_read_at_import(dict(os.environ))
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    while True:
        link, _ = server.accept()
        descriptors: list[int] = []
        try:
            request, descriptors = receive(link)
            if keep_read_at_import(request["environment"]) != own:
                link.send(REFUSED)
            elif os.fork() == 0:
                server.close()
                return request, descriptors, link
        except OSError as error:
            print(f"a request was lost: {error}", file=sys.stderr, flush=True)
        # Only the server comes here.
        link.close()
        for descriptor in descriptors:
            os.close(descriptor)


def become(request: dict[str, Any], descriptors: list[int], link: socket.socket) -> None:
    """Run the command of a request as a Python would that was started for it."""
    import numpy as np

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # Ray kills the group of a worker, to be sure of its children
    link = take_descriptors(dict(zip(request["descriptors"], descriptors, strict=True)), link)
    link.send(os.getpid().to_bytes(4, "big"))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    np.random.seed()
    if request["stays"]:
        follow(link)
    else:
        link.close()
    run(request["command"])


def take_descriptors(received: dict[int, int], link: socket.socket) -> socket.socket:
    """Give the received file descriptors the numbers that they have in the process whose place is
    taken; return the connection under another number.
    """
    # All go out of the way first, so that none is overwritten before it is moved.
    moved = {number: fcntl.fcntl(each, fcntl.F_DUPFD, ASIDE) for number, each in received.items()}
    kept = socket.socket(fileno=fcntl.fcntl(link.fileno(), fcntl.F_DUPFD_CLOEXEC, ASIDE))
    link.close()
    for each in received.values():
        os.close(each)
    for number, each in moved.items():
        os.dup2(each, number)
        os.close(each)
    return kept


def follow(link: socket.socket) -> None:
    """End this process with the one whose place it took, and that one with this, with its status
    0 unless this process is killed.
    """

    def wait() -> None:
        link.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
    atexit.register(link.send, b"\0")


def run(command: list[str]) -> None:
    """Run a worker's script, or what `multiprocessing` has given to -c: spawn_main with the numbers
    of two file descriptors.
    """
    if command[0] == "-c":
        from multiprocessing.spawn import spawn_main

        sys.argv = ["-c", *command[2:]]
        sys.path[0] = ""
        spawn_main(**{name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", command[1])})
    sys.argv = command
    sys.path[0] = os.path.dirname(command[0])  # noqa: PTH120
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
    import_packages()
    gc.collect()
    gc.freeze()  # so that a collection in a fork does not copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    become(*serve(sys.argv[1]))
