"""Capabilities of the machine and the cluster: number formats, devices, compute threads, CPUs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def has_bfloat16() -> bool:
    """Return whether this machine multiplies bfloat16 in hardware (CUDA, AVX512-BF16 or AMX)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return (
        bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()
    )


@dataclass(frozen=True)
class Device:
    """Device that a worker computes on."""

    cuda: bool
    bfloat16: bool  # in hardware


def inspect_device() -> Device:
    """Return the device of this process."""
    import torch

    return Device(cuda=torch.cuda.is_available(), bfloat16=has_bfloat16())


def resolve_dtype(name: str, bfloat16: bool | None = None) -> "torch.dtype":
    """Return the torch type of `model.dtype`; `auto` is bfloat16 if the hardware has it, else
    float32.

    Args:
        bfloat16: whether the hardware has it; None: ask this machine.
    """
    import torch

    if name == "auto":
        name = "bfloat16" if (has_bfloat16() if bfloat16 is None else bfloat16) else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def count_threads(workers: int, asked: int | None) -> int:
    """Return the compute threads for each of `workers` processes on one machine.

    With more threads than cores, OpenMP's waiting threads take the cores from those that work, and
    throughput falls by an order of magnitude.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return asked or max(1, cores // workers)


def worker_environment(threads: int | None) -> dict[str, str]:
    """Return the environment of a compute worker: bounded threads, which sleep while they wait.

    Without `threads` the worker counts them by the cores of its own node, and sets them in torch.
    """
    counted = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return counted | {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def task_environment() -> dict[str, str]:
    """Return the environment of the processes that run the tasks of all steps.

    Ray reuses a process only for tasks with the very same environment. With an environment for each
    step, every step would import torch and transformers anew. So each step sets its number of
    threads in torch instead.
    """
    return worker_environment(None)


def fit_cpus(workers: int, asked: float) -> float:
    """Return the CPUs to reserve for each of `workers` actors, at most `asked`.

    Actors that reserve more CPUs than are free, as beside a service, wait for ever without a
    message; actors that reserve all of them leave Ray Data none to read with. So half a CPU of what
    is free now is left.
    """
    import ray

    free = float(ray.available_resources().get("CPU", 0.0))
    return min(asked, max(0.01, (free - 0.5) / workers))


def count_cpus_here() -> float:
    """Return the CPUs of the Ray node of this process; none on a head that was started with
    `--num-cpus=0`, where Ray places no task that reserves any.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    node = next((each for each in ray.nodes() if each["NodeID"] == here), None)
    return float(node["Resources"].get("CPU", 0.0)) if node else 0.0


def share_cpus() -> dict[str, Any]:
    """Return the options of Ray Data's read tasks: how many run at once, and the CPUs of each.

    Ray Data's default is a whole CPU for each task, which beside a service may never be free. One
    CPU is left to the others in the cluster: a controller, an annotator, another step.
    """
    import ray

    tasks = max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
    return {"num_cpus": fit_cpus(tasks, 1.0), "concurrency": tasks}


def describe_machine() -> dict[str, str]:
    """Return processor, cores, memory and GPUs of this machine, for comparisons of run times."""
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
    """Return the model of the processor as Linux reports it; empty on other systems."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def count_gpus() -> int:
    """Return the number of GPUs in the Ray cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))
