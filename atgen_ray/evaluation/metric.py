"""What a metric sees: an answer, the references it is compared with, and the text it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from atgen_ray.evaluation.model_settings import MetricModelsConfig

# Materials to verdicts, in their order: how a metric asks a language model.
JudgeFn = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """One answer to judge; `source` is the user turn, of which at least one reference is known to
    be right.
    """

    prediction: str
    references: Sequence[str]
    source: str = ""


@dataclass(frozen=True)
class Resources:
    """What some metrics need beside the cases: which checkpoints they load, and whom the judge
    asks.
    """

    models: MetricModelsConfig = field(default_factory=MetricModelsConfig)
    ask: JudgeFn | None = None
