"""vLLM engine through Ray's own LLM layer (`ray.data.llm`), on a GPU or with the CPU build."""

import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.checkpoints import is_adapter, resolve_checkpoint
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import OUTPUT_SCHEMA, Engine
from atgen_ray.engines.output_rows import (
    ENTROPY_ALTERNATIVES,
    encode_rows,
    failed_row,
    output_row,
    summarize_step,
)
from atgen_ray.engines.vllm_plugin import LOAD_FORMAT
from atgen_ray.models.loading import TUNED_DTYPE, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import (
    Device,
    count_threads,
    fit_cpus,
    resolve_dtype,
    worker_environment,
)
from atgen_ray.ray_runtime.nodes import find_device
from atgen_ray.ray_runtime.placement import fit_gpus
from atgen_ray.ray_runtime.private_api import settle_on_worker

if TYPE_CHECKING:
    from ray.data import Dataset


CPU_KV_CACHE_BYTES = 256 * 2**20
# CPUs of a task before or after the engine; Ray Data reserves a whole one, which may never be free.
LIGHT_CPUS = 0.1
# Stands for the weights until a worker finds them on its node. It is no hub id, for which Ray would
# ask the hub here.
SOURCE = "/base"
# Share of a GPU's memory, vLLM's own default; an engine on a part of a GPU takes that part of it.
GPU_MEMORY = 0.9


class VLLMEngine(Engine):
    """Continuous batching in the engine actors of `ray.data.llm`."""

    name = "vllm"

    def __init__(self, model: ModelConfig, prompt: PromptConfig, engine: EngineConfig) -> None:
        self._model = model
        self._prompt = prompt
        self._engine = engine

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Stored | None
    ) -> "Dataset":
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        engine = self._engine
        gpus = fit_gpus("engine.gpus_per_worker", engine.workers, engine.gpus_per_worker)
        device = find_device(gpus)
        cpus = fit_cpus(engine.workers, engine.cpus_per_worker)
        processor = build_processor(
            vLLMEngineProcessorConfig(
                model_source=SOURCE,
                engine_kwargs=dict(engine.options),
                concurrency=(engine.workers, engine.workers),
                batch_size=engine.batch_size,
                should_continue_on_error=True,
                chat_template_stage=False,
                tokenize_stage=False,
                detokenize_stage=False,
                log_engine_metrics=False,
                placement_group_config={
                    "bundles": [{"GPU": gpus, "CPU": cpus} if gpus else {"CPU": cpus}]
                },
                runtime_env={
                    "env_vars": worker_environment(engine.threads_per_worker)
                    | vllm_environment(device.cuda)
                },
            ),
            preprocess=partial(
                _to_engine,
                request=request,
                stage=(self._model, self._prompt),
            ),
            preprocess_map_kwargs={"num_cpus": LIGHT_CPUS},
        )
        settle_on_worker(processor, partial(self.settle, device, gpus, adapter))
        to_output = partial(_to_output, request=request, stage=(self._model, self._prompt))
        return processor(rows).map_batches(
            to_output, batch_size=None, batch_format="pandas", num_cpus=LIGHT_CPUS
        )

    def settle(
        self, device: Device, gpus: float, adapter: Stored | None
    ) -> tuple[str, dict[str, Any], str | None]:
        """Return what an engine on this node starts with: the folder or hub id of its weights, its
        arguments, and the folder of an adapter that it is to apply by name.

        Paths are those of this node, which has its own caches.
        """
        threads = count_threads(self._engine.workers, self._engine.threads_per_worker)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # the process of the engine takes it from here
        # Three cases: a whole model of a full fine-tuning, an adapter that vLLM applies by name, or
        # one that is merged into the weights while they are read.
        folder = None if adapter is None else adapter.local()
        whole = folder is not None and not is_adapter(folder)
        by_name = folder is not None and not whole and _takes_by_name(self._engine.adapters, folder)
        tuned = folder is not None and not (by_name and device.cuda)
        arguments = self.engine_arguments(device, gpus, tuned)
        arguments |= self._adapter_arguments(None if whole else folder, by_name)
        source = str(folder) if whole else resolve_checkpoint(self._model.id)
        return source, arguments | self._engine.options, str(folder) if by_name else None

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

    def _adapter_arguments(self, adapter: Path | None, by_name: bool) -> dict[str, Any]:
        """Return the arguments that add the adapter, by name or while weights are read."""
        if adapter is None:
            return {}
        if by_name:
            from peft import PeftConfig

            rank = PeftConfig.from_pretrained(str(adapter)).r
            # One slot more than adapters: without a free one, vLLM answers requests for the base
            # model with the adapter.
            return {
                "enable_lora": True,
                "max_loras": 2,
                "max_lora_rank": max(8, 2 ** math.ceil(math.log2(rank))),
            }
        return {"load_format": LOAD_FORMAT, "model_loader_extra_config": {"adapter": str(adapter)}}


def vllm_environment(on_gpu: bool) -> dict[str, str]:
    """Return the environment of every process of an engine."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if not on_gpu:
        environment |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return environment


def _builder(model: ModelConfig, prompt: PromptConfig) -> Any:
    """Return the prompt builder of this worker process; it is built once."""
    key = model.model_dump_json() + prompt.model_dump_json()
    if key not in _BUILDERS:
        _BUILDERS[key] = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
    return _BUILDERS[key]


_BUILDERS: dict[str, Any] = {}


def _to_engine(
    row: dict[str, Any],
    request: GenerationRequest,
    stage: tuple[ModelConfig, PromptConfig],
) -> dict[str, Any]:
    """Return the input of the engine stage. A prompt that cannot be built is sent as one token, and
    reported afterwards.
    """
    builder = _builder(*stage)
    prompts, failed = encode_rows(builder, [row])
    drawn = row["sample"] > 0
    # The same keys and types in every row: Ray Data turns an integer that some rows lack into a
    # float.
    sampling = {
        "max_tokens": 1 if failed else request.max_new_tokens,
        "temperature": request.temperature if drawn else 0.0,
        "top_p": request.top_p if drawn else 1.0,
        "seed": mix_seed(request.seed, row["id"], row["sample"]) % 2**31,
        "logprobs": max(ENTROPY_ALTERNATIVES, request.top_logprobs),
        "stop_token_ids": builder.stop_ids,
        "detokenize": False,
    }
    tokens = builder.stop_ids[:1] if failed else prompts[0].token_ids
    return {
        "tokenized_prompt": tokens,
        "sampling_params": sampling,
        "reason": failed[0]["error"] if failed else "",
    }


def _to_output(
    batch: Any, request: GenerationRequest, stage: tuple[ModelConfig, PromptConfig]
) -> Any:
    """Return OUTPUT_SCHEMA from the results of the engine stage, its own failures included."""
    import pyarrow as pa

    builder = _builder(*stage)
    rows = []
    for row in batch.to_dict("records"):
        # Our own reason comes first: such a prompt was sent only to keep its row in the dataset.
        reason = row["reason"] or row["__inference_error__"]
        if reason:
            rows.append(failed_row(row["id"], row["sample"], reason))
            continue
        tokens = [int(token) for token in row["generated_tokens"]]
        steps = [
            summarize_step(_read_alternatives(step), token, request.top_logprobs)
            for step, token in zip(row["logprobs"], tokens, strict=True)
        ]
        stopped = bool(tokens) and tokens[-1] in builder.stop_ids
        rows.append(
            output_row(
                id=row["id"],
                sample=row["sample"],
                prompt_tokens=int(row["num_input_tokens"]),
                text=builder.decode(tokens),
                token_ids=tokens,
                logprobs=[step[0] for step in steps],
                entropies=[step[1] for step in steps],
                top_logprobs=[step[2] for step in steps],
                finish_reason="stop" if stopped else "length",
            )
        )
    return pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)


def _takes_by_name(adapters: str, adapter: Path) -> bool:
    """Return whether vLLM applies the adapter by name; it does not support DoRA, which is merged
    into the weights.
    """
    from peft import PeftConfig

    return adapters == "name" and not PeftConfig.from_pretrained(str(adapter)).use_dora


def _read_alternatives(step: Any) -> dict[int, float]:
    """Return one step as Ray Data hands it on: a mapping, or pairs, some of them empty."""
    items = step.items() if isinstance(step, dict) else step
    return {int(key): float(value["logprob"]) for key, value in items if value is not None}
