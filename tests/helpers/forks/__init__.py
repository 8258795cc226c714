"""Workers of Ray that are forked from one process, instead of started, in the tests.

A worker spends ten CPU seconds on the imports of torch, transformers and the like, and the suite has
some hundreds of them. A fork has them behind it, and shares their memory; all else of it is as in a
process that was started: environment, folder, output, exit. The tests of clusters give their nodes
environments of their own, and their workers start as a user's do; so do all with
`ATGEN_TESTS_FORKS=off`.
"""

import atexit
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VARIABLE = "ATGEN_TESTS_FORKS"


def start_fork_server() -> None:
    """Start a server that ends with this process, and lead the workers of each Ray that this
    process starts from now on to it. Until it is ready, workers start by themselves.
    """
    if os.environ.get(VARIABLE) == "off":
        return
    folder = tempfile.TemporaryDirectory(prefix="atgen-forks-")
    path = [str(HERE / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {VARIABLE: f"{folder.name}/socket", "PYTHONPATH": os.pathsep.join(path)}
    with Path(f"{folder.name}/log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), os.environ[VARIABLE]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def stop() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
