"""Configuration of a run: one tree of pydantic sections, with `RunConfig` as its root.

Every key has a description, which `atgen-ray config explain --all` prints. Values are strict (no
text for a number), unknown keys are errors, and errors name the nearest valid choice.
`config.loading` reads a tree from a YAML file or preset.
"""

from atgen_ray.config.annotation import (
    AnnotatorConfig,
    DatasetAnnotatorConfig,
    PluginAnnotatorConfig,
    RouterConfig,
    list_annotators,
)
from atgen_ray.config.annotators.language_models import (
    ChecksConfig,
    LLMAnnotatorConfig,
    ModelAnnotatorConfig,
)
from atgen_ray.config.annotators.paid_models import (
    AnthropicAnnotatorConfig,
    GeminiAnnotatorConfig,
    MistralAnnotatorConfig,
    OpenAIAnnotatorConfig,
    PriceConfig,
    RemoteAnnotatorConfig,
)
from atgen_ray.config.annotators.people import HumanAnnotatorConfig
from atgen_ray.config.data import DataConfig, DuplicatesConfig, PromptConfig, Shot
from atgen_ray.config.embedding import EmbeddingConfig
from atgen_ray.config.evaluation import EvaluationConfig, GainConfig, PlateauConfig, StoppingConfig
from atgen_ray.config.model import EngineConfig, ModelConfig
from atgen_ray.config.notifications import (
    ChannelsConfig,
    EmailConfig,
    NoticeConfig,
    NotifyConfig,
)
from atgen_ray.config.run import RunConfig, read_source
from atgen_ray.config.selection import FirstBatchConfig, SelectionConfig, ShortlistConfig
from atgen_ray.config.service import LimitsConfig, ReplicaConfig, ServiceConfig
from atgen_ray.config.training import EarlyStoppingConfig, TrainingConfig
from atgen_ray.evaluation.model_settings import MetricModelsConfig

__all__ = [
    "AnnotatorConfig",
    "AnthropicAnnotatorConfig",
    "ChannelsConfig",
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
    "GeminiAnnotatorConfig",
    "HumanAnnotatorConfig",
    "LLMAnnotatorConfig",
    "LimitsConfig",
    "MetricModelsConfig",
    "MistralAnnotatorConfig",
    "ModelAnnotatorConfig",
    "ModelConfig",
    "NoticeConfig",
    "NotifyConfig",
    "OpenAIAnnotatorConfig",
    "PlateauConfig",
    "PluginAnnotatorConfig",
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
