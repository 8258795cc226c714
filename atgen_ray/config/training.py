"""How the adapter is fine-tuned."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from atgen_ray.settings import Fraction, Section


class TrainingConfig(Section):
    """Fine-tuning of the adapter, from the base model, on all labels so far."""

    method: Literal["lora"] = Field("lora", description="lora: low-rank adapters on all linear layers")
    rank: PositiveInt = Field(16, description="LoRA rank")
    alpha: PositiveInt = Field(32, description="LoRA alpha; the update is scaled by alpha / rank")
    dropout: Fraction = Field(0.0, description="LoRA dropout")
    target_modules: str | list[str] = Field("all-linear", description="Modules that get an adapter")
    epochs: PositiveFloat = Field(3, description="Passes over the labels")
    learning_rate: PositiveFloat = Field(2e-4, description="Peak learning rate")
    schedule: Literal["linear", "cosine", "constant"] = Field("cosine", description="Learning-rate schedule")
    warmup_fraction: Fraction = Field(0.03, description="Share of the steps that warm up")
    weight_decay: NonNegativeFloat = Field(0.01, description="AdamW weight decay")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clipping")
    batch_size: PositiveInt = Field(8, description="Examples in one optimiser step, over all workers")
    accumulation: PositiveInt = Field(1, description="Micro-batches that one optimiser step is split into")
    gradient_checkpointing: bool = Field(False, description="Trade time for memory")
    warm_start: bool = Field(False, description="Continue from the last round's adapter instead of the base")
    workers: PositiveInt = Field(1, description="Data-parallel workers (DDP)")
    cpus_per_worker: PositiveFloat = Field(1.0, description="CPUs that Ray reserves for a worker")
    threads_per_worker: PositiveInt | None = Field(
        None, description="Compute threads of a worker on CPU; null: the machine's cores over `workers`"
    )
    use_gpu: bool | None = Field(None, description="null: where the cluster has a GPU for every worker")
    gpus_per_worker: PositiveFloat = Field(
        1.0, description="GPUs that Ray reserves for a worker; below 1 it shares one with replicas that sleep meanwhile"
    )

    @model_validator(mode="after")
    def _divides(self) -> "TrainingConfig":
        share = self.workers * self.accumulation
        if self.batch_size % share:
            raise ValueError(
                f"training.batch_size is {self.batch_size}, expected a multiple of workers x accumulation = {share}"
            )
        return self
