"""What the machine at hand can do: number formats, devices, compute threads."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

GRAIN = 0.0001  # of a GPU: the least that Ray lets a task reserve
DEVICE_SECONDS = 60.0  # how long a worker may take to say what it computes on


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware (CUDA, or AVX512-BF16 / AMX on CPU)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return (
        bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()
    )


@dataclass(frozen=True)
class Device:
    """What a worker computes on."""

    cuda: bool
    bfloat16: bool  # in hardware


def find_device(gpus: float) -> Device:
    """What workers compute on that reserve `gpus` each: a GPU in Ray's books need not be one of
    CUDA's.

    Without any GPU it is this machine; else a task that reserves a grain of one tells. Where there
    is no Ray to ask, or all GPUs are taken, as by the replica that a new one is to replace, they
    count as GPUs of CUDA with bfloat16.
    """
    if not gpus:
        return _inspect_device()
    import ray
    from ray.exceptions import GetTimeoutError

    if not ray.is_initialized():
        return Device(cuda=True, bfloat16=True)
    asked = ray.remote(num_cpus=0, num_gpus=GRAIN)(_inspect_device).remote()
    try:
        found: Device = ray.get(asked, timeout=DEVICE_SECONDS)
    except GetTimeoutError:
        ray.cancel(asked, force=True)
        return Device(cuda=True, bfloat16=True)
    return found


def _inspect_device() -> Device:
    import torch

    return Device(cuda=torch.cuda.is_available(), bfloat16=has_bfloat16())


def resolve_dtype(name: str, bfloat16: bool | None = None) -> "torch.dtype":
    """The torch type behind model.dtype; `auto` is bfloat16 where the hardware has it, else
    float32.

    Args:
        bfloat16: whether the hardware has it; null: that of this machine.
    """
    import torch

    if name == "auto":
        name = "bfloat16" if (has_bfloat16() if bfloat16 is None else bfloat16) else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def count_threads(workers: int, asked: int | None) -> int:
    """Compute threads for each of `workers` processes on one machine.

    More threads than cores make OpenMP spin: throughput then falls by an order of magnitude.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return asked or max(1, cores // workers)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a compute worker: bounded threads that sleep, not spin, while they wait."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }


def task_environment() -> dict[str, str]:
    """Environment of the processes that work off the tasks of runs, the same for all steps.

    Ray gives a task only a process of the very same environment, so steps of different environments
    would each import torch and transformers anew. Each step sets the number of threads that it
    computes with in torch itself.
    """
    return worker_environment(count_threads(1, None))


def fit_cpus(workers: int, asked: float) -> float:
    """CPUs to reserve for each of `workers` actors, at most `asked`.

    Actors that reserve more CPUs than are free, as beside a service, wait for ever without a word;
    those that reserve every one leave Ray Data none to read with. A share of what is free now is
    always left.
    """
    import ray

    free = float(ray.available_resources().get("CPU", 0.0))
    return min(asked, max(0.01, (free - 0.5) / workers))


def share_cpus() -> dict[str, Any]:
    """For tasks of Ray Data that read: how many at once, and the CPUs of each, whole ones where
    they are free.

    Ray Data's own tasks want a whole CPU, which beside a service may never be free. One stays free
    for whoever waits for this: a controller, an annotator, another step.
    """
    import ray

    tasks = max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
    return {"num_cpus": fit_cpus(tasks, 1.0), "concurrency": tasks}


def describe_machine() -> dict[str, str]:
    """Processor, cores and GPUs of this machine, for people who compare seconds."""
    import platform

    import psutil
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": _name_processor() or platform.machine(),
        "cores": str(count_threads(1, None)),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "gpus": ", ".join(names) or "none",
        "bfloat16": "yes" if has_bfloat16() else "no",
    }


def _name_processor() -> str:
    """The model of the processor as Linux tells it; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def count_gpus() -> int:
    """GPUs in the Ray cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))
