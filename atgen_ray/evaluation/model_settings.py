"""Section `evaluation.models` of the configuration: the checkpoints of metrics that need one."""

from pydantic import Field, PositiveInt

from atgen_ray.core.schema import Section


class BERTScoreConfig(Section):
    """Checkpoint of the metric `bertscore`."""

    model: str = Field("FacebookAI/roberta-large", description="Encoder, given like model.id")
    layer: PositiveInt = Field(
        17, description="Layer whose states are compared, from 1; 17 is right for roberta-large"
    )


class BARTScoreConfig(Section):
    """Checkpoint of the metrics `bartscore` and `bartscore_reference`."""

    model: str = Field(
        "facebook/bart-large-cnn", description="Encoder-decoder, given like model.id"
    )


class AlignScoreConfig(Section):
    """Checkpoint of the metric `alignscore`."""

    checkpoint: str = Field(
        "yzha/AlignScore/AlignScore-base.ckpt", description="File, or REPOSITORY/FILE on the hub"
    )
    base: str = Field(
        "FacebookAI/roberta-base",
        description="Tokenizer and shape of the encoder, given like model.id",
    )


class MetricModelsConfig(Section):
    """Checkpoints of the metrics that need one; loaded only for a metric in `metrics`."""

    bertscore: BERTScoreConfig = Field(default_factory=BERTScoreConfig)
    bartscore: BARTScoreConfig = Field(default_factory=BARTScoreConfig)
    alignscore: AlignScoreConfig = Field(default_factory=AlignScoreConfig)
