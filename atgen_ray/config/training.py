"""Section of the configuration for training: how the adapter is fine-tuned."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from atgen_ray.core.schema import Changeable, Fraction, Section

Method = Literal["lora", "rslora", "dora", "qlora", "full"]


class EarlyStoppingConfig(Section):
    """Ends training when the loss on the dev split (evaluation.dev_fraction) no longer falls, and
    keeps the best.
    """

    from_examples: PositiveInt = Field(
        50, description="Smaller training sets are trained for all of `epochs`"
    )
    patience: PositiveInt = Field(
        2, description="Epochs without a lower dev loss before training ends"
    )


class TrackingConfig(Section):
    """How the run is called in MLflow and Weights & Biases, where it is one run."""

    experiment: str = Field(
        "atgen-ray", min_length=1, description="Experiment of MLflow that the run begins in"
    )
    project: str = Field("atgen-ray", min_length=1, description="W&B project of the run")
    tags: dict[str, str] = Field(
        default_factory=dict, description="Tags that the run gets there as it begins"
    )


class TrainingConfig(Section):
    """Fine-tuning of the adapter, from the base model, on all labels so far."""

    method: Method = Field(
        "lora",
        description="lora; rslora: scaled by alpha / sqrt(rank); dora: magnitude and direction "
        "apart; qlora: lora on a base in 4 bits, slow on CPUs; full: all weights",
    )
    backend: Literal["transformers", "unsloth"] = Field(
        "transformers",
        description="unsloth: its kernels, where it is installed; one GPU, not for full",
    )
    rank: PositiveInt = Field(16, description="LoRA rank")
    alpha: PositiveInt = Field(32, description="LoRA alpha; the update is scaled by alpha / rank")
    dropout: Fraction = Field(0.0, description="LoRA dropout")
    target_modules: str | list[str] = Field("all-linear", description="Modules that get an adapter")
    order: NonNegativeInt = Field(
        0,
        description="Which order of the examples (and start of the adapter), of those that the "
        "run's seed gives",
    )
    turns: Literal["last", "all"] = Field(
        "last",
        description="Answers of a conversation in the loss: the last, or those of all turns",
    )
    epochs: PositiveFloat = Field(3, description="Passes over the labels")
    early_stopping: EarlyStoppingConfig = Field(default_factory=EarlyStoppingConfig)
    learning_rate: PositiveFloat = Field(2e-4, description="Peak learning rate")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="Learning-rate schedule"
    )
    warmup_fraction: Fraction = Field(0.03, description="Share of the steps that warm up")
    weight_decay: NonNegativeFloat = Field(0.01, description="AdamW weight decay")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clipping")
    batch_size: PositiveInt = Field(
        8, description="Examples in one optimiser step, over all workers"
    )
    accumulation: Changeable[PositiveInt] = Field(
        1, description="Micro-batches that one optimiser step is split into"
    )
    packing: Changeable[bool] = Field(
        True,
        description="Lay the examples of a micro-batch end to end, each blind to the others, "
        "instead of padding them; models whose attention cannot do so are padded. The loss is the "
        "same",
    )
    gradient_checkpointing: Changeable[bool] = Field(False, description="Trade time for memory")
    reweight: Annotated[float, Field(gt=1.0)] | None = Field(
        None,
        description="Weigh the labels in the loss so that their embeddings are spread like the "
        "pool's, against the bias of selection; none counts more than this, nor less than its "
        "inverse. null: all count alike",
    )
    warm_start: bool = Field(
        False, description="Continue from the last round's adapter instead of the base"
    )
    workers: Changeable[PositiveInt] = Field(1, description="Data-parallel workers")
    sharding: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="ddp: a copy of the model in every worker; fsdp: its weights, gradients and "
        "optimiser shared out over the workers, not for qlora",
    )
    checkpoint_steps: Changeable[PositiveInt] = Field(
        50,
        description="Optimiser steps between checkpoints, from which training goes on after a "
        "lost worker",
    )
    trackers: Changeable[list[Literal["tensorboard", "mlflow", "wandb"]]] = Field(
        default_factory=list,
        description="Where the run is logged beside its report; tensorboard: the loss, into the "
        "run's folder, under logs; mlflow (at MLFLOW_TRACKING_URI) and wandb: the learning curve "
        "by labels, dollars, settings, loss and adapters",
    )
    tracking: Changeable[TrackingConfig] = Field(
        default_factory=TrackingConfig, description="How the run is called in mlflow and wandb"
    )
    cpus_per_worker: Changeable[PositiveFloat] = Field(
        1.0, description="CPUs that Ray reserves for a worker"
    )
    threads_per_worker: Changeable[PositiveInt | None] = Field(
        None,
        description="Compute threads of a worker on CPU; null: the machine's cores over `workers`",
    )
    use_gpu: Changeable[bool | None] = Field(
        None, description="null: where the cluster has a GPU for every worker"
    )
    gpus_per_worker: Changeable[PositiveFloat] = Field(
        1.0,
        description="GPUs that Ray reserves for a worker; below 1 it shares one with replicas "
        "that sleep meanwhile",
    )

    def uses_gpus(self, available: float) -> bool:
        """Return whether workers get GPUs in a cluster that has `available` of them."""
        if self.use_gpu is not None:
            return self.use_gpu
        return available >= self.workers * self.gpus_per_worker

    @model_validator(mode="after")
    def _divides(self) -> "TrainingConfig":
        share = self.workers * self.accumulation
        if self.batch_size % share:
            raise ValueError(
                f"training.batch_size is {self.batch_size}, expected a multiple of workers x "
                f"accumulation = {share}"
            )
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> "TrainingConfig":
        if self.sharding == "fsdp" and self.method == "qlora":
            raise ValueError(
                "training.sharding is 'fsdp', expected 'ddp' for training.method=qlora"
            )
        if self.sharding == "fsdp" and self.workers == 1:
            raise ValueError(
                "training.sharding is 'fsdp', expected 'ddp' for training.workers=1, or 2 workers"
            )
        if self.backend == "unsloth" and (self.method == "full" or self.workers > 1):
            raise ValueError(
                "training.backend is 'unsloth', expected 'transformers' for full or for several "
                "workers"
            )
        return self
