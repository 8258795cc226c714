"""A Ray cluster of several nodes in this machine that have nothing in common but the network: each has
its own HOME, cache, temporary and working folder, and finds those of the others missing.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from atgen_ray.ray_runtime.workers import KEEPING
from helpers.ports import free_port
from helpers.projects import STARTED

# Milliseconds between two looks of a head at its nodes, of which five must fail before it takes one
# for dead; with Ray's own three seconds each death is a quarter of a minute in which nothing happens.
# How long a look may take is as Ray has it.
LOOKS = 500
# Runs a command in its own process group, and ends the group when the input does: also when the tests
# are killed.
UNTIL_EOF = '"$@" & read -r _; kill -9 0'
RAY = str(Path(sys.executable).with_name("ray"))
# What every Python process of a node imports first. It hides the folders of other nodes, and packages.
GUARD = """
import os, sys

OWN, HIDDEN, stat = os.environ["NODE_FOLDER"], os.environ["HIDDEN_PACKAGES"].split(), os.stat
ROOT = os.path.dirname(OWN)


def refuse(path):
    if isinstance(path, (str, os.PathLike)):
        there = os.path.normpath(os.path.join(os.getcwd(), os.fspath(path)))
        if isinstance(there, str) and there.startswith(ROOT + "/") and not (there + "/").startswith(OWN + "/"):
            raise FileNotFoundError(2, "on the disk of another node", there)


def audit(event, arguments):
    if event in ("open", "os.listdir", "os.scandir"):
        refuse(arguments[0])


def guarded_stat(path, *others, **more):
    refuse(path)
    return stat(path, *others, **more)


sys.addaudithook(audit)
os.stat = guarded_stat
if HIDDEN:
    from importlib.machinery import PathFinder

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

    sys.meta_path[:] = [Finder if each is PathFinder else each for each in sys.meta_path]
"""


@dataclass
class Node:
    """A node and its folder."""

    folder: Path
    address: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def copies(self) -> set[str]:
        """Names of the files and folders in its cache of what is stored."""
        found = (self.folder / "home/.cache/atgen-ray/storage").glob("*/*")
        return {path.name for path in found if not path.name.startswith(".")}

    def kill(self) -> None:
        """Kills the node with all that runs on it."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        for process in [self.process.pid, *(child.pid for child in children)]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(60)


@dataclass
class NodesApart:
    """A running cluster; the first node is its head."""

    root: Path
    port: int
    shared: dict[str, str]  # what is in the environment of all nodes
    nodes: list[Node] = field(default_factory=list)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def add(self, cpus: float, gpus: int = 0, hidden: str = "", **environment: str) -> Node:
        """Starts a node; `hidden` are packages that its Python does not find."""
        number = len(self.nodes)
        folder = self.root / f"node-{number}"
        for name in ("home", "tmp", "work", "guard"):
            (folder / name).mkdir(parents=True)
        (folder / "guard/sitecustomize.py").write_text(GUARD)
        own = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "NODE_FOLDER": str(folder),
            "HIDDEN_PACKAGES": hidden,
            "PYTHONPATH": os.pathsep.join([str(folder / "guard"), str(Path(__file__).parents[2])]),
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
        address = f"127.0.0.{2 + number}"
        command = [RAY, "start", "--block", f"--num-cpus={cpus:g}", f"--num-gpus={gpus}"]
        command += [f"--node-ip-address={address}", f"--temp-dir={tempfile.mkdtemp(prefix='ray-')}"]
        command += ["--object-store-memory=100000000"]
        if number == 0:
            command += ["--head", f"--port={self.port}", "--include-dashboard=false"]
            command += [f'--system-config={{"health_check_period_ms": {LOOKS}}}']
        else:
            command += [f"--address=127.0.0.2:{self.port}"]
        together = inherited | self.shared | own | environment
        with (folder / "ray.log").open("w") as log:
            process = subprocess.Popen(
                ["sh", "-c", UNTIL_EOF, "node", *command],
                stdin=subprocess.PIPE,
                cwd=folder / "work",
                env=together,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(folder, address, together | {"RAY_ADDRESS": f"127.0.0.2:{self.port}"}, process)
        self.nodes.append(node)
        return node

    def wait(self) -> None:
        """Waits until Ray's nodes are those that were started and not killed."""
        script = "import ray, sys, time\nray.init(address='auto', logging_level='ERROR', log_to_driver=False)\n"
        script += "end = time.monotonic() + 90\n"
        script += "while sum(n['Alive'] for n in ray.nodes()) != int(sys.argv[1]):\n"
        script += "    assert time.monotonic() < end\n    time.sleep(0.2)\n"
        living = sum(node.process.poll() is None for node in self.nodes)
        subprocess.run(
            [sys.executable, "-c", script, str(living)], env=self.head.environment, check=True
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts the command line on the head."""
        process = subprocess.Popen(
            [sys.executable, "-m", "atgen_ray.cli", *arguments],
            cwd=self.head.folder / "work",
            env=self.head.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        STARTED.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line on the head, to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextmanager
def run_apart(root: Path, **shared: str) -> Iterator[NodesApart]:
    """A cluster without nodes yet."""
    cluster = NodesApart(root, free_port(), dict(KEEPING) | shared)
    try:
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            if node.process.poll() is None:
                node.kill()
