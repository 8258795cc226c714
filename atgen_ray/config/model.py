"""Sections of the configuration for models: the target model and its engine."""

import math
from typing import Literal, Self

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from atgen_ray.config.plugins import BACKENDS, ENGINE_PLUGINS
from atgen_ray.core.errors import nearest
from atgen_ray.core.schema import Changeable, Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelConfig(Section):
    """The language model that is fine-tuned: the target model."""

    id: str = Field(
        description="Hugging Face id, folder, .gguf file, package://PACKAGE/FILE, or URL of a "
        "folder or .gguf file in an object store, which each node fetches once"
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub")
    trust_remote_code: bool = Field(False, description="Run code that comes with the checkpoint")
    dtype: Dtype = Field(
        "auto",
        description="Number format of the base model; auto: bfloat16 where the hardware has it, "
        "else float32. A tuned model computes in float32: less would round small updates away",
    )
    max_prompt_tokens: PositiveInt = Field(1024, description="Longest prompt in tokens")
    max_new_tokens: PositiveInt = Field(64, description="Longest answer in tokens")
    host: Changeable[Literal["batch", "serve"]] = Field(
        "batch",
        description="Where engines live: batch puts them in Ray actors of the run; "
        "serve uses the replicas of the service in the same Ray cluster, shared with its "
        "callers",
    )


class TargetModelConfig(ModelConfig):
    """The language model that is fine-tuned: the target model, as it is or with an adapter."""

    adapter: str | None = Field(
        None,
        description="LoRA adapter that the run goes on from: a folder, its URL, RUN or RUN:ROUND; "
        "null: the base model",
    )


class EngineConfig(Section):
    """The engine that generates."""

    backend: Literal["auto", "vllm", "sglang", "transformers"] | str = Field(
        "auto",
        description="auto: vllm where it is installed, else transformers; sglang: a server of its "
        "own, from the environment that ATGEN_SGLANG_PYTHON names; or an engine of an installed "
        "package, by its name",
    )
    workers: Changeable[PositiveInt] = Field(1, description="Engine replicas")
    cpus_per_worker: Changeable[PositiveFloat] = Field(
        1.0, description="CPUs that Ray reserves for a replica"
    )
    threads_per_worker: Changeable[PositiveInt | None] = Field(
        None,
        description="Compute threads of a replica on CPU; null: the machine's cores over "
        "`workers`, less one for vLLM in the service",
    )
    gpus_per_worker: Changeable[NonNegativeFloat | None] = Field(
        None,
        description="GPUs of a replica; null: one where the cluster has GPUs, else none. Two or "
        "more are of one node, and vLLM splits the model over them (tensor parallelism)",
    )
    keep: Changeable[bool] = Field(
        True,
        description="Keep engines of vLLM and SGLang from one step of a run to the next. false: "
        "they end with each step, which frees their memory and costs their start",
    )
    batch_size: Changeable[PositiveInt] = Field(32, description="Prompts in one batch")
    adapters: Literal["auto", "name", "merged"] = Field(
        "auto",
        description="How an engine takes an adapter. merged: added to the weights, in float32. "
        "name: beside the base model; vLLM's kernels for it are slow on a CPU, and on a GPU "
        "compute in 16 bits: set adapter_tolerance. auto: merged with vLLM, name with SGLang",
    )
    adapter_tolerance: Changeable[PositiveFloat] = Field(
        0.03,
        description="How far an adapter's effect on log-probabilities may be from its effect in "
        "peft and float32, as a share of it; a run fails beyond that",
    )
    check_rows: Changeable[int] = Field(
        4,
        ge=0,
        description="Outputs whose log-probabilities are checked against transformers after a new "
        "adapter",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further arguments of the engine: of vLLM, of SGLang's server, or of an "
        "installed package's",
    )

    def count_gpus(self) -> float | None:
        """Return the GPUs of a replica: as many as `options` split the model over, else
        `gpus_per_worker`.
        """
        shards = self._count_shards()
        return float(shards) if shards > 1 else self.gpus_per_worker

    def _count_shards(self) -> int:
        """Return into how many parts `options` split the model for vLLM."""
        sizes = [self.options.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
        return math.prod(size for size in sizes if isinstance(size, int))

    @model_validator(mode="after")
    def _one_number_of_gpus(self) -> Self:
        """Refuse two different numbers of GPUs for a replica, and parts of a second one."""
        gpus = self.gpus_per_worker or 0.0
        shards = self._count_shards()
        if shards > 1 and gpus not in (0.0, 1.0, float(shards)):
            raise ValueError(
                f"engine.gpus_per_worker is {gpus:g}, expected {shards}, since options split the "
                f"model into as many parts"
            )
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"engine.gpus_per_worker is {gpus:g}, expected a whole number above 1")
        return self

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, name: str) -> str:
        ENGINE_PLUGINS.refuse_clash(name)
        if name in BACKENDS or name in ENGINE_PLUGINS:
            return name
        known = [*BACKENDS, *ENGINE_PLUGINS]
        listed = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        hint = nearest(name, known)
        raise ValueError(f"is {name!r}, expected {listed}{hint if 'did you mean' in hint else ''}")
