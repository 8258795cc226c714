"""The whole tree of a run."""

import re

from pydantic import Field, NonNegativeInt, SecretStr, field_validator, model_validator

from atgen_ray.config.annotation import DatasetAnnotatorConfig
from atgen_ray.config.data import DataConfig, PromptConfig
from atgen_ray.config.evaluation import EvaluationConfig, StoppingConfig
from atgen_ray.config.model import EmbeddingConfig, EngineConfig, ModelConfig
from atgen_ray.config.selection import SelectionConfig
from atgen_ray.config.training import TrainingConfig
from atgen_ray.errors import nearest
from atgen_ray.settings import Section

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class RunConfig(Section):
    """Everything that defines a run."""

    name: str = Field("run", description="Name of the run: a-z, 0-9 and -, at most 63 characters")
    seed: NonNegativeInt = Field(42, description="Seed of every random choice")
    storage: str = Field("./atgen-runs", description="Folder or fsspec URL (s3://, gs://) that holds the runs")
    database_url: SecretStr | None = Field(
        None,
        description="URL of the journal, postgresql:// or sqlite:///FILE; null: SQLite at <storage>/atgen.db. Better "
        "given in the environment as ATGEN_DATABASE_URL, where every command finds it",
    )
    data: DataConfig
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    model: ModelConfig
    engine: EngineConfig = Field(default_factory=EngineConfig)
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    annotator: DatasetAnnotatorConfig = Field(default_factory=DatasetAnnotatorConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    stopping: StoppingConfig = Field(default_factory=StoppingConfig)

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"is {name[:80]!r}, expected a-z, 0-9 and -, at most 63 characters, the first not -")
        return name

    @model_validator(mode="after")
    def _parts_fit(self) -> "RunConfig":
        if self.annotator.type == "dataset" and not self.data.references:
            raise ValueError("annotator.type is 'dataset' but data.references is empty, expected the answers' column")
        steered = self.stopping.steering
        for metric in sorted(steered):
            _check_steering(metric, self.evaluation.metrics)
        if steered and not self.evaluation.dev_fraction:
            raise ValueError("stopping.plateau and stopping.dev_target need evaluation.dev_fraction above 0, as 0.2")
        return self


def _check_steering(metric: str, computed: list[str] | None) -> None:
    from atgen_ray.evaluation import METRICS

    known = METRICS if computed is None else computed
    if metric not in known:
        expected = "a known metric" if computed is None else "one of evaluation.metrics"
        raise ValueError(f"stopping names metric '{metric}', expected {expected}{nearest(metric, known)}")
    if METRICS[metric].better == "neither":
        raise ValueError(f"stopping names metric '{metric}', which is no better the larger or the smaller it is")
