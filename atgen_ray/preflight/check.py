"""What a check is given, and how the lines of many checks come together."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from atgen_ray.config import (
    EngineConfig,
    ModelAnnotatorConfig,
    ModelConfig,
    RunConfig,
    list_annotators,
)
from atgen_ray.core.errors import UserError

Goal = Literal["run", "select", "measure"]


@dataclass(frozen=True)
class Setting:
    """A run that is about to begin, and the GPUs that its workers can have, all together."""

    config: RunConfig
    goal: Goal = "run"
    gpus: float = 0.0

    @property
    def trains(self) -> bool:
        """Whether labels are bought and learnt from; `atgen-ray select` does neither."""
        return self.goal != "select"

    @property
    def trains_on_gpu(self) -> bool:
        """Whether training workers get GPUs, as `train_adapter` decides it."""
        training = self.config.training
        wanted = training.workers * training.gpus_per_worker
        return self.gpus >= wanted if training.use_gpu is None else training.use_gpu


Check = Callable[[Setting], Iterator[str]]


def run_checks(checks: Iterable[Check], setting: Setting) -> list[str]:
    """The lines of all `checks`, each line once; a UserError of a check is among them and ends it
    alone.
    """
    lines: list[str] = []
    for check in checks:
        try:
            lines += check(setting)
        except UserError as error:
            lines += str(error).splitlines()
    return list(dict.fromkeys(lines))


def list_models(setting: Setting) -> Iterator[tuple[str, ModelConfig, EngineConfig]]:
    """Every language model that the run loads, with its key: the one that is taught, annotators'
    and the judge's.
    """
    config = setting.config
    yield "model", config.model, config.engine
    if not setting.trains:
        return
    for key, annotator in list_annotators(config.annotator):
        if isinstance(annotator, ModelAnnotatorConfig):
            yield f"{key}.model", annotator.model, annotator.engine
    if isinstance(config.evaluation.judge, ModelAnnotatorConfig):
        yield (
            "evaluation.judge.model",
            config.evaluation.judge.model,
            config.evaluation.judge.engine,
        )
