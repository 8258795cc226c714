"""The configuration of a run: one pydantic tree. `atgen-ray config explain` prints every key with its description."""

from atgen_ray.config.annotation import DatasetAnnotatorConfig
from atgen_ray.config.data import DataConfig, DuplicatesConfig, PromptConfig, Shot
from atgen_ray.config.evaluation import EvaluationConfig, MetricModelsConfig, PlateauConfig, StoppingConfig
from atgen_ray.config.model import EmbeddingConfig, EngineConfig, ModelConfig
from atgen_ray.config.run import NAME_PATTERN, RunConfig
from atgen_ray.config.selection import FirstBatchConfig, SelectionConfig
from atgen_ray.config.training import EarlyStoppingConfig, TrainingConfig

__all__ = [
    "NAME_PATTERN",
    "DataConfig",
    "DatasetAnnotatorConfig",
    "DuplicatesConfig",
    "EarlyStoppingConfig",
    "EmbeddingConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FirstBatchConfig",
    "MetricModelsConfig",
    "ModelConfig",
    "PlateauConfig",
    "PromptConfig",
    "RunConfig",
    "SelectionConfig",
    "Shot",
    "StoppingConfig",
    "TrainingConfig",
]
