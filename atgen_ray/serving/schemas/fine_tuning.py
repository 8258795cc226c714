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


class BudgetBody(Body):
    """What the labels of a job may cost."""

    labels: Annotated[int, Field(ge=1)] | None = None
    dollars: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _has_an_end(self) -> "BudgetBody":
        if self.labels is None and self.dollars is None:
            raise ValueError("an empty budget, expected labels, dollars, or both")
        return self


class ActiveBody(Body):
    """Settings of active learning: who labels the file, and how much."""

    budget: BudgetBody
    annotator: Word | None = Field(
        None, description="Name of an annotator of the service; null: its only one"
    )
    strategy: Word | None = Field(None, description="Query strategy; null: that of runs")
    rounds: Auto | Annotated[int, Field(ge=1, le=100)] = Field(
        "auto", description="Rounds that the labels are spread over; auto: 4"
    )
    audit_labels: Auto | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="Labels that measure the model and are not trained on, 8 or more; 0: none; "
        "auto: a quarter of all, 60 at most, or none where there is a validation_file",
    )
    hyperparameters: HyperparametersBody | None = None


class MethodBody(Body):
    """How a job trains: on the answers in its file, or on those that it asks for."""

    type: Literal["supervised", "active"]
    supervised: SupervisedBody | None = None
    active: ActiveBody | None = None

    @model_validator(mode="after")
    def _settings_of_the_type(self) -> "MethodBody":
        if self.type == "active" and self.active is None:
            raise ValueError("active is missing, expected its settings beside the type active")
        other = "supervised" if self.type == "active" else "active"
        if getattr(self, other) is not None:
            raise ValueError(f"{other} is given beside the type {self.type}, expected one of them")
        return self

    @property
    def hyperparameters(self) -> HyperparametersBody | None:
        """Return those of the method, where they are given."""
        chosen = self.active or self.supervised
        return chosen.hyperparameters if chosen is not None else None


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
        inner = self.method.hyperparameters if self.method else None
        if self.hyperparameters is not None and inner is not None:
            raise ValueError("hyperparameters are given twice, expected them in method alone")
        return self

    @property
    def chosen(self) -> HyperparametersBody:
        """Return the hyperparameters, wherever they are given."""
        inner = self.method.hyperparameters if self.method else None
        return inner or self.hyperparameters or HyperparametersBody()

    @property
    def active(self) -> ActiveBody | None:
        """Return the settings of active learning; None for a supervised job."""
        return self.method.active if self.method else None


class ScoreBody(BaseModel):
    """A score of the model with its interval, and what it was measured on."""

    metric: str
    mean: float
    low: float | None
    high: float | None
    count: int
    round: int
    measured_on: Literal["audit", "validation_file"]


class ActiveStateBody(BaseModel):
    """How far the labelling of an active job is."""

    run: str = Field(description="Its run, which has a page, a report, and tasks for people")
    state: str = Field(description="The run's own status, or `waiting for people`")
    annotator: str
    strategy: str
    round: int
    labels: int
    audit_labels: int = Field(description="Labels of these that measure, and are not trained on")
    dollars: float = Field(description="Paid for labels by now")
    budget: dict[str, Any]
    score: ScoreBody | None


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
    active: ActiveStateBody | None = None
