"""Inputs of a metric: the cases (answer, references and source) and the resources it may use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from atgen_ray.evaluation.model_settings import MetricModelsConfig

# Maps texts to grade to the verdicts of a language model, in their order.
JudgeFn = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """An answer to judge, its references (known right answers), and the user turn that it answers
    (`source`). `nats` is for metrics of the references' likelihood: minus the log-probability that
    the model gives each reference, a token of it.
    """

    prediction: str
    references: Sequence[str]
    source: str = ""
    nats: Sequence[float] = ()


@dataclass(frozen=True)
class Resources:
    """What some metrics need beside the cases: the checkpoints that they load, and the language
    models that grade (`judges`).
    """

    models: MetricModelsConfig = field(default_factory=MetricModelsConfig)
    judges: Sequence[JudgeFn] = ()
