"""What the machine at hand can do: number formats, devices, compute threads."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware (CUDA, or AVX512-BF16 / AMX on CPU)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()


def resolve_dtype(name: str) -> "torch.dtype":
    """The torch type behind model.dtype; `auto` is bfloat16 where the hardware has it, else float32."""
    import torch

    if name == "auto":
        name = "bfloat16" if has_bfloat16() else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def count_threads(workers: int, asked: int | None) -> int:
    """Compute threads for each of `workers` processes on one machine.

    More threads than cores make OpenMP spin: throughput then falls by an order of magnitude.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or max(1, cores // workers)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a compute worker: bounded threads that sleep, not spin, while they wait."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }


def fit_cpus(workers: int, asked: float) -> float:
    """CPUs to reserve for each of `workers` actors, at most `asked`.

    Actors that reserve more CPUs than are free, as beside a service, wait for ever without a word; those that reserve
    every one leave Ray Data none to read with. A share of what is free now is always left.
    """
    import ray

    free = float(ray.available_resources().get("CPU", 0.0))
    return min(asked, max(0.01, (free - 0.5) / workers))


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
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def count_gpus() -> int:
    """GPUs in the Ray cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))
