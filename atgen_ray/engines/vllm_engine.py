"""vLLM engine in actors that stay from the first step of a run to its last.

It computes on GPUs, or on a CPU with the build for it.
"""

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.checkpoints import ADAPTER_CONFIG
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import Engine
from atgen_ray.engines.kept_actors import KeptActors
from atgen_ray.engines.token_calls import TokenCaller
from atgen_ray.engines.vllm_actor import VLLMActor, connect_actors
from atgen_ray.models.loading import TUNED_DTYPE
from atgen_ray.ray_runtime.hardware import (
    Device,
    fit_cpus,
    resolve_dtype,
    worker_environment,
)
from atgen_ray.ray_runtime.nodes import find_device
from atgen_ray.ray_runtime.workers import MAX_RESTARTS, map_batches

if TYPE_CHECKING:
    from ray.data import Dataset


RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has LoRA kernels for
CPU_KV_CACHE_BYTES = 256 * 2**20
# Share of a GPU's memory, vLLM's own default; an engine on a part of a GPU takes that part of it.
GPU_MEMORY = 0.9
WORKER = "atgen_ray.engines.vllm_worker.AdapterWorker"
LIGHT_CPUS = 0.1  # of a task that encodes prompts and decodes answers
# Batches at an engine at once. A GPU answers hundreds of prompts together; on a CPU the second
# batch is there for when the first one ends.
BATCHES_ON_GPU = 8
BATCHES_ON_CPU = 2
CALLS = 1000  # that an actor answers at once; Ray's default of an asynchronous actor


class VLLMEngine(Engine):
    """Continuous batching in Ray actors, one for each of `engine.workers`.

    The actors start at the first use and stay. They belong to the process that made this object
    and end with it, or with `close`.
    """

    name = "vllm"
    scores_answers = True

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        engine: EngineConfig,
        training: TrainingConfig | None = None,
    ) -> None:
        """`training` is what the engine makes room for in `released`."""
        self._model = model
        self._prompt = prompt
        self._engine = engine
        self._training = training
        self._actors = KeptActors()

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Stored | None
    ) -> "Dataset":

        # Three cases: a whole model of a full fine-tuning, an adapter that vLLM applies by name, or
        # one that is merged into the weights.
        whole = adapter is not None and not adapter.holds(ADAPTER_CONFIG)
        by_name = adapter is not None and not whole and _takes_by_name(self._engine, adapter)
        gpus = self._actors.reserve(self._engine)
        device = find_device(gpus)
        tuned = adapter is not None and not (by_name and device.cuda)
        arguments = {
            **self.engine_arguments(device, gpus, tuned),
            **_executor_arguments(gpus),
            **({"enable_sleep_mode": True} if device.cuda else {}),
            **(
                _name_arguments(adapter)
                if adapter and by_name
                else {"worker_extension_cls": WORKER}
            ),
            **self._engine.options,
        }
        # What the engines are started with: a whole tuned model or none, and their arguments.
        kind = (adapter if whole else None, arguments)
        actors = self._actors.have(
            kind, lambda: self._start(*kind, device, gpus), sleep=device.cuda
        )
        batches = BATCHES_ON_GPU if device.cuda else BATCHES_ON_CPU
        return map_batches(
            rows,
            TokenCaller,
            (
                self._model,
                self._prompt,
                request,
                None,
                partial(connect_actors, actors, None if whole else adapter),
            ),
            workers=batches * self._engine.workers,
            cpus=LIGHT_CPUS,
            gpus=0,
        )

    def released(self, run: str) -> AbstractContextManager[None]:
        """Let training have the GPUs: engines sleep if Ray has room for it beside them, and end
        otherwise.
        """
        return self._actors.released(self._training)

    def close(self) -> None:
        """End the engines; the next pass starts others."""
        self._actors.close()

    def _start(
        self, whole: Stored | None, arguments: dict[str, Any], device: Device, gpus: float
    ) -> list[Any]:
        """Return actors whose engines start."""
        import ray

        engine = self._engine
        environment = worker_environment(engine.threads_per_worker) | vllm_environment(device.cuda)
        actor_class = ray.remote(VLLMActor).options(
            num_cpus=fit_cpus(engine.workers, engine.cpus_per_worker),
            num_gpus=gpus,
            max_concurrency=CALLS,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
            runtime_env={"env_vars": environment},
        )
        return [
            actor_class.remote(self._model, self._prompt, engine, whole, arguments)
            for _ in range(engine.workers)
        ]

    def engine_arguments(self, device: "Device", gpus: float, tuned: bool) -> dict[str, Any]:
        """Return the arguments of a vLLM engine, without `engine.options`.

        Args:
            device: what it computes on.
            gpus: that Ray reserves for it.
            tuned: whether fine-tuning changes its weights; they are float32 then, else in
                model.dtype.
        """
        model = self._model
        dtype = resolve_dtype(TUNED_DTYPE if tuned else model.dtype, device.bfloat16)
        arguments: dict[str, Any] = {
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": model.max_prompt_tokens + model.max_new_tokens,
            "trust_remote_code": model.trust_remote_code,
            "load_format": "safetensors",  # "auto" takes pickles where there is nothing else
            "enable_prefix_caching": True,
            "disable_log_stats": True,
        }
        if model.revision:
            arguments["revision"] = model.revision
        if device.cuda and 0 < gpus < 1:
            arguments["gpu_memory_utilization"] = round(GPU_MEMORY * gpus, 2)
        if not device.cuda:
            # Compilation takes a minute or more at every start, which a CPU never regains.
            # Asynchronous scheduling helps a GPU that waits; on a CPU it takes a tenth of the
            # model's time.
            arguments |= {
                "enforce_eager": True,
                "kv_cache_memory_bytes": CPU_KV_CACHE_BYTES,
                "async_scheduling": False,
            }
        return arguments


def _takes_by_name(engine: EngineConfig, adapter: Stored) -> bool:
    """Return whether vLLM applies the adapter by name; it does not support DoRA, which is merged
    into the weights.
    """
    from peft import PeftConfig

    if engine.adapters != "name":
        return False
    return not PeftConfig.from_pretrained(str(adapter.local())).use_dora


def _executor_arguments(gpus: float) -> dict[str, Any]:
    """Return the arguments that say where an engine with `gpus` GPUs computes."""
    if gpus < 2:
        # In the engine's own process: a worker process beside it would poll for every step.
        return {"distributed_executor_backend": "uni"}
    # On the GPUs of one node. Ray makes them visible to the actor, and the engine starts a process
    # for each.
    return {"distributed_executor_backend": "mp", "tensor_parallel_size": int(gpus)}


def read_rank(adapter: Path) -> int:
    """Return the rank of the adapter in a peft folder."""
    from peft import PeftConfig

    return int(PeftConfig.from_pretrained(str(adapter)).r)


def _name_arguments(adapter: Stored) -> dict[str, Any]:
    """Return the arguments of an engine that takes adapters like this one by name.

    Raises:
        UserError: the adapter's rank is larger than any that vLLM takes.
    """
    rank = read_rank(adapter.local())
    if rank > RANKS[-1]:
        raise UserError(
            f"the adapter's rank is {rank}, expected at most {RANKS[-1]} with "
            f"engine.adapters=name: set engine.adapters=merged, or a smaller training.rank"
        )
    # One slot more than adapters: without a free one, vLLM answers requests for the base model with
    # the adapter.
    return {
        "enable_lora": True,
        "max_loras": 2,
        "max_lora_rank": next(size for size in RANKS if size >= rank),
    }


def vllm_environment(on_gpu: bool) -> dict[str, str]:
    """Return the environment of every process of an engine."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if not on_gpu:
        environment |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # `enforce_eager` holds for the model alone: the sampler would compile a comparison at
            # the first log-probabilities, for ten seconds and with a C++ compiler.
            "TORCH_COMPILE_DISABLE": "1",
        }
    return environment
