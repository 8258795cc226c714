"""The configuration of a run: one pydantic tree. `atgen-ray config explain` prints every key with
its description.
"""

from atgen_ray.config.annotation import (
    AnnotatorConfig,
    AnthropicAnnotatorConfig,
    ChecksConfig,
    DatasetAnnotatorConfig,
    EmailConfig,
    HumanAnnotatorConfig,
    LLMAnnotatorConfig,
    ModelAnnotatorConfig,
    NoticeConfig,
    OpenAIAnnotatorConfig,
    PriceConfig,
    RemoteAnnotatorConfig,
    RouterConfig,
    list_annotators,
)
from atgen_ray.config.data import DataConfig, DuplicatesConfig, PromptConfig, Shot
from atgen_ray.config.evaluation import EvaluationConfig, GainConfig, PlateauConfig, StoppingConfig
from atgen_ray.config.model import EmbeddingConfig, EngineConfig, ModelConfig
from atgen_ray.config.run import RunConfig, read_source
from atgen_ray.config.selection import FirstBatchConfig, SelectionConfig, ShortlistConfig
from atgen_ray.config.service import LimitsConfig, ReplicaConfig, ServiceConfig
from atgen_ray.config.training import EarlyStoppingConfig, TrainingConfig
from atgen_ray.evaluation.model_settings import MetricModelsConfig

__all__ = [
    "AnnotatorConfig",
    "AnthropicAnnotatorConfig",
    "ChecksConfig",
    "DataConfig",
    "DatasetAnnotatorConfig",
    "DuplicatesConfig",
    "EarlyStoppingConfig",
    "EmailConfig",
    "EmbeddingConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FirstBatchConfig",
    "GainConfig",
    "HumanAnnotatorConfig",
    "LLMAnnotatorConfig",
    "LimitsConfig",
    "MetricModelsConfig",
    "ModelAnnotatorConfig",
    "ModelConfig",
    "NoticeConfig",
    "OpenAIAnnotatorConfig",
    "PlateauConfig",
    "PriceConfig",
    "PromptConfig",
    "RemoteAnnotatorConfig",
    "ReplicaConfig",
    "RouterConfig",
    "RunConfig",
    "SelectionConfig",
    "ServiceConfig",
    "ShortlistConfig",
    "Shot",
    "StoppingConfig",
    "TrainingConfig",
    "list_annotators",
    "read_source",
]
