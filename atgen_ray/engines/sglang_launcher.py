"""Launcher of SGLang's server: the one file of this package that runs in SGLang's own Python.

`sglang_server.py` starts it as `PYTHON -P sglang_launcher.py`. The server's arguments, with its API
key, are one JSON list in the first line of standard input, so that no list of processes shows them.
The parent keeps that input open for as long as it lives: when it ends, however it ends, the
launcher ends its whole process group. The launcher itself may be killed, as by Ray, which kills the
children of an actor that it ends; then SGLang's processes end by themselves.

Invariants:
- It imports nothing of atgen_ray, which is not installed where it runs.
- Importing it has no effect but `mend_imports`. SGLang's worker processes are spawned, and import
  the main module again under the name `__mp_main__`, so the mends hold there too.
"""

import ctypes
import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

CPU = "SGLANG_USE_CPU_ENGINE"  # SGLang's own variable: "1" where it computes on a CPU
KERNELS = "sgl_kernel"
IMAGES = "torchvision"
ADAPTERS = "sglang.srt.lora"
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class KernelStub(ModuleType):
    """Stands for SGLang's compiled kernels, whose wheels are for GPUs.

    SGLang imports names from it at the top of modules that every model needs; with the attention
    backend `torch_native` a text model calls none of them.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> None:
            raise NotImplementedError(f"{KERNELS}.{name} is compiled code that a CPU does not have")

        return refuse


class StubLoader(importlib.abc.Loader):
    """Makes a `KernelStub`."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return KernelStub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the stub has no code of its own."""


class Mends(importlib.abc.MetaPathFinder):
    """Mends what three imports lack on a machine without a GPU, just before each is imported."""

    def __init__(self) -> None:
        self._kept: list[object] = []  # torch forgets operators whose library is collected
        self._due: dict[str, Callable[[], None]] = {
            IMAGES: self._declare_operators,
            ADAPTERS: ignore_pinning,
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the stub for missing kernels; for all other names None, after the mend."""
        if fullname == KERNELS and importlib.machinery.PathFinder.find_spec(KERNELS) is None:
            return importlib.machinery.ModuleSpec(KERNELS, StubLoader(), is_package=True)
        mend = self._due.pop(fullname, None)
        if mend is not None:
            mend()
        return None

    def _declare_operators(self) -> None:
        """Declare the two operators that torchvision's Python code registers more for.

        Its wheels are built for CUDA. Beside a CPU build of torch their compiled part is not
        loaded, and without these declarations the import fails. Nothing here calls the operators.
        """
        import torch

        library = torch.library.Library(IMAGES, "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        self._kept.append(library)


def ignore_pinning() -> None:
    """Let torch take requests for pinned memory as requests for memory.

    SGLang's code for adapters always asks for pinned memory, which torch refuses without a GPU
    (sgl-project/sglang#31894). Pinned memory is only faster to copy to a GPU.
    """
    import torch
    import torch.utils._device

    # torch keeps the set of functions that `with torch.device(...)` redirects, made at first use.
    # It must hold the functions themselves: with the wrappers in it, models would be loaded with
    # buffers that are not initialised.
    torch.utils._device._device_constructors()

    def drop_pinning(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            named.pop("pin_memory", None)
            return function(*arguments, **named)

        return call

    for name in ("arange", "empty", "ones", "tensor", "zeros"):
        setattr(torch, name, drop_pinning(getattr(torch, name)))
    setattr(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor)  # noqa: B010 - mypy


def mend_imports() -> None:
    """Register the mends, once a process, where SGLang computes on a CPU."""
    registered = any(type(finder).__name__ == Mends.__name__ for finder in sys.meta_path)
    if os.environ.get(CPU) == "1" and not registered:
        sys.meta_path.insert(0, Mends())


def end_with_parent() -> None:
    """End this process group once standard input closes, in a thread of its own."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_with_starter() -> None:
    """Let Linux kill this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def read_arguments() -> list[str]:
    """Return the server's arguments; reads no further than their line."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(sys.stdin.fileno(), 1)
        if not piece:
            raise SystemExit("standard input ended before the server's arguments")
        line += piece
    arguments: list[str] = json.loads(line)
    return arguments


def main() -> None:
    """Serve until the parent ends."""
    arguments = read_arguments()
    end_with_parent()
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    run_server(prepare_server_args(arguments))


mend_imports()
if __name__ == "__mp_main__":
    end_with_starter()
if __name__ == "__main__":
    main()
