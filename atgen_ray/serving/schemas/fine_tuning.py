"""Requests and responses of /v1/fine_tuning/jobs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, model_validator

from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.schemas.select import Word

Auto = Literal["auto"]
Suffix = Annotated[str, Field(max_length=40, pattern=r"^([a-zA-Z0-9][a-zA-Z0-9-]*)?$")]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class HyperparametersBody(Body):
    """How long and how fast a job trains; auto leaves it to the service."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=100)] = Field(
        "auto", description="Of 2e-4, the rate of LoRA here"
    )


class SupervisedBody(Body):
    """Settings of the method."""

    hyperparameters: HyperparametersBody | None = None


class MethodBody(Body):
    """How a job trains: on the answers in its file."""

    type: Literal["supervised"]
    supervised: SupervisedBody | None = None


class TuningBody(Body):
    """Body of POST /v1/fine_tuning/jobs."""

    model: Word
    training_file: Word
    validation_file: Word | None = None
    suffix: Suffix | None = Field(
        None, description="Part of the model's name, in small letters there"
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    method: MethodBody | None = None
    hyperparameters: HyperparametersBody | None = Field(None, description="Older place of them")
    metadata: Metadata | None = None
    integrations: Annotated[list[JsonValue], Field(max_length=0)] | None = Field(
        None, description="Expected none; a run's trackers are settings of runs"
    )

    @model_validator(mode="after")
    def _one_place(self) -> "TuningBody":
        inner = self.method.supervised if self.method else None
        if self.hyperparameters is not None and inner is not None and inner.hyperparameters:
            raise ValueError("hyperparameters are given twice, expected them in method alone")
        return self

    @property
    def chosen(self) -> HyperparametersBody:
        """Return the hyperparameters, wherever they are given."""
        inner = self.method.supervised if self.method else None
        return (inner and inner.hyperparameters) or self.hyperparameters or HyperparametersBody()


class JobBody(BaseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: None = None
    model: str
    fine_tuned_model: str | None = Field(description="Null until the job has succeeded")
    organization_id: str = ""
    result_files: list[str] = Field(default_factory=list)
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    trained_tokens: int | None
    error: dict[str, Any] | None
    seed: int
    integrations: list[Any] = Field(default_factory=list)
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
