"""A process that has imported what workers of Ray and our commands import, and forks one for each
that asks.

Run as `python server.py SOCKET`, the name of which says for whom it is: `workers`, `commands` or
`agents`, which are those of a raylet. Ray's workers learn from the environment who they are, which
Ray reads at import: their server imports nothing of Ray, and what Ray imports. Commands and agents
import Ray and no torch.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import signal
import socket
import sys
import time
import types
from typing import Any

# Variables that are read at import: a worker for which one of them differs is not forked.
READ_AT_IMPORT = (
    *("HF_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_"),
    *("PYTHON", "LD_", "PATH", "HOME", "ACCELERATE_", "BNB_", "TZ", "LANG", "LC_"),
)
# Ray sets the first in a process that connects, whose children have it then; nothing reads it at
# import. The second is for processes that vLLM starts, which are not forked.
NOT_READ = {"PYTHONBREAKPOINT", "TORCH_COMPILE_DISABLE"}
# The settings of Ray that may differ for commands, whose server has imported Ray: they are read when
# a Ray is started or joined, or Ray itself sets them in a process, as that of the tests, that did so.
NOT_READ_OF_RAY = {
    *("RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR"),
    *("RAY_CLIENT_MODE", "RAY_LD_PRELOAD_ON_WORKERS", "RAY_USAGE_STATS_ENABLED"),
    *("RAY_idle_worker_killing_time_threshold_ms", "RAY_task_oom_retries"),
    *("RAY_NODE_ID", "RAY_RAYLET_PID", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"),
}
IDS_OF_A_FORK = 5000  # far more than a command draws
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG; forks do not inherit it
PACKAGES_OF_BOTH = (
    "pandas",
    "pyarrow.compute",
    "pyarrow.parquet",
    "datasketch",
    "matplotlib.backends.backend_agg",
    "rouge_score.rouge_scorer",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "jinja2.sandbox",
    "atgen_ray.config",
)
PACKAGES = {
    "workers": (
        # What Ray imports.
        "aiohttp",
        "colorful",
        "google.protobuf.json_format",
        "grpc.aio",
        "jsonschema",
        "msgpack",
        "prometheus_client",
        "requests",
        "starlette.requests",
        "uvloop",
        "wcwidth",
        # What our work needs.
        "alembic.runtime.environment",
        "sentence_transformers",
        "peft",
        "transformers.models.llama.modeling_llama",
        "transformers.models.bert.modeling_bert",
        "atgen_ray.annotation.judge",
        "atgen_ray.annotation.registry",
        "atgen_ray.embedding.encoder",
        "atgen_ray.embedding.pool",
        "atgen_ray.engines.generation",
        "atgen_ray.engines.registry",
        "atgen_ray.evaluation.ray_scoring",
        "atgen_ray.reporting.publish",
        "atgen_ray.runs.round_model",
        "atgen_ray.runs.stored_selection",
        "atgen_ray.runs.takeover",
        "atgen_ray.runs.tracking.tracking",
        "atgen_ray.training.ray_train",
        "atgen_ray.training.trainer",
    ),
    "commands": (
        "alembic.runtime.environment",
        "rich.progress",
        "sacrebleu",
        "transformers.tokenization_utils_tokenizers",
        "ray.autoscaler.v2.sdk",
        "ray.data",
        "atgen_ray.cli.app",
        "atgen_ray.runs.driver",
        "atgen_ray.serving.application",
        "uvicorn",
    ),
    "agents": (
        "aiohttp",
        "ray.dashboard.agent",
        "ray._private.runtime_env.default_impl",
        "ray._private.runtime_env.plugin",
    ),
}


def import_packages(role: str) -> None:
    """Import what most processes of a role need."""
    for package in (*PACKAGES[role], *(PACKAGES_OF_BOTH if role != "agents" else ())):
        importlib.import_module(package)
    if role == "agents":
        from ray.dashboard.utils import DashboardAgentModule, get_all_modules

        get_all_modules(DashboardAgentModule)  # which imports them
    assert "ray" not in sys.modules or role != "workers"
    assert "torch" not in sys.modules or role == "workers"


def keep_read_at_import(environment: dict[str, str]) -> dict[str, str]:
    has_ray = "ray" in sys.modules
    return {
        key: value
        for key, value in environment.items()
        if (key.startswith(READ_AT_IMPORT) and key not in NOT_READ)
        or (has_ray and key.startswith("RAY_") and key not in NOT_READ_OF_RAY)
    }


def split_path(
    environment: dict[str, str], own: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the folders that PYTHONPATH has before those of this process, as the working folder of a
    job, and the environment without them. One with a `sitecustomize` is left: it is to run first.
    """
    path, ours = environment.get("PYTHONPATH", ""), own.get("PYTHONPATH", "")
    before = path.removesuffix(os.pathsep + ours)
    folders = before.split(os.pathsep) if before != path else []
    if any(os.path.exists(f"{folder}/sitecustomize.py") for folder in folders):  # noqa: PTH110
        return [], environment
    return folders, (environment | {"PYTHONPATH": ours} if folders else environment)


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a request and the three file descriptors that came with it."""
    head, descriptors, _, _ = socket.recv_fds(link, 4, 3)
    body = b""
    while len(body) < int.from_bytes(head, "big"):
        part = link.recv(1 << 16)
        if not part:
            raise ConnectionError("the request ends too soon")
        body += part
    return json.loads(body), descriptors


def serve(path: str) -> dict[str, Any]:
    """Answer requests for ever; return, in a fork alone, what it shall run."""
    own = keep_read_at_import(dict(os.environ))
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    while True:
        link, _ = server.accept()
        descriptors: list[int] = []
        try:
            request, descriptors = receive(link)
            request["path"], compared = split_path(request["environment"], own)
            if different := keep_read_at_import(compared).items() ^ own.items():
                print(f"refused, as these differ: {sorted(different)}", file=sys.stderr, flush=True)
                link.send(bytes(4))
            elif fork(link, request["adopted"], f"{path}.pids", request["environment"]):
                server.close()
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                return request
        except OSError as error:
            print(f"a request was lost: {error}", file=sys.stderr, flush=True)
        finally:
            link.close()
            for descriptor in descriptors:
                os.close(descriptor)


def fork(link: socket.socket, adopted: bool, record: str, environment: dict[str, str]) -> bool:
    """Fork and answer with the process id of the fork; return whether this process is the fork.

    The fork is a child of this process. `record` gets its process id, and that of the raylet which
    asked for it. One that is `adopted` is an orphan at first, and then the child of a process above
    this one that takes such orphans.
    """
    if "ray" in sys.modules:
        skip_ids()
    if pid := os.fork():
        if not adopted:
            with open(record, "a") as file:  # noqa: PTH123
                file.write(f"{pid} {environment.get('RAY_RAYLET_PID', 0)}\n")
            link.send(pid.to_bytes(4, "big"))
        return False
    if adopted:
        middle = os.getpid()
        if pid := os.fork():
            link.send(pid.to_bytes(4, "big"))
            os._exit(0)
        while os.getppid() == middle:
            time.sleep(0.001)
    return True


def skip_ids() -> None:
    """Lead Ray's generator of random ids, with which a fork goes on, past those of the fork before."""
    from ray import WorkerID

    for _ in range(IDS_OF_A_FORK):
        WorkerID.from_random()


def become(request: dict[str, Any]) -> None:
    """Run the script, module or code of a request as a Python would that was started for it."""
    import numpy as np

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    np.random.seed()
    sys.argv = request["command"]
    sys.path[1:1] = request["path"]
    if sys.argv[0] == "-m":
        sys.argv.pop(0)
        sys.path[0] = os.getcwd()  # noqa: PTH109
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif sys.argv[0] == "-c":
        sys.path[0] = ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(sys.argv.pop(1), "<string>", "exec"), main.__dict__)
    else:
        os.setpgid(0, 0)  # Ray kills the group of a worker, to be sure of its children
        sys.path[0] = os.path.dirname(sys.argv[0])  # noqa: PTH120
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
    import_packages(os.path.basename(sys.argv[1]))  # noqa: PTH119
    gc.collect()
    gc.freeze()  # so that a collection in a fork does not copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    become(serve(sys.argv[1]))
