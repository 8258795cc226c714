"""The type of a check, the setting that checks are given, and the function that runs them."""

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

Goal = Literal["run", "select", "measure", "evaluate"]


@dataclass(frozen=True)
class Setting:
    """Setting of a check: a run that is about to begin, and the GPUs that all its workers together
    can have.
    """

    config: RunConfig
    goal: Goal = "run"
    gpus: float = 0.0

    @property
    def trains(self) -> bool:
        """Return whether the run buys labels and trains on them, unlike `atgen-ray select`."""
        return self.goal != "select"

    @property
    def trains_on_gpu(self) -> bool:
        """Return whether training workers get GPUs."""
        return self.config.training.uses_gpus(self.gpus)


Check = Callable[[Setting], Iterator[str]]


def run_checks(checks: Iterable[Check], setting: Setting) -> list[str]:
    """Return the lines of all `checks`, each line once. A check that raises UserError ends with its
    message as a line; the others still run.
    """
    lines: list[str] = []
    for check in checks:
        try:
            lines += check(setting)
        except UserError as error:
            lines += str(error).splitlines()
    return list(dict.fromkeys(lines))


def list_models(setting: Setting) -> Iterator[tuple[str, ModelConfig, EngineConfig]]:
    """Yield every language model that the run loads, with its key: the target model, and those of
    annotators and judges. A selection alone loads the target model if its strategy reads it, or the
    embeddings are its states.
    """
    config = setting.config
    states = config.embeds and config.embedding.source == "model"
    if setting.trains or states or config.selection.reads_model(1):
        yield "model", config.model, config.engine
    if not setting.trains:
        return
    for key, asked in (*list_annotators(config.annotator), *config.evaluation.list_asked()):
        if isinstance(asked, ModelAnnotatorConfig):
            yield f"{key}.model", asked.model, asked.engine
