"""Configuration of a suite of benchmarks. Its parts are parts of a run's configuration, which are
merged for each run of the suite.
"""

import re
from typing import Annotated, Any

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from atgen_ray.core.errors import nearest
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.core.schema import Section

Tree = dict[str, JsonValue]
OWN = ("name", "seed", "storage", "cache", "database_url")  # keys that the suite sets itself


class TaskConfig(Section):
    """A task: its data and prompt, and the metric of its curves."""

    metric: str = Field(description="Metric of the task's curves, one of evaluation.metrics")
    run: Tree = Field(
        description="Part of a run's configuration: data, prompt and what else the task needs"
    )


class ResourcesConfig(Section):
    """Resources of one run; as many runs go at once as fit on the nodes of the cluster."""

    cpus: PositiveFloat = Field(
        1.0, description="CPUs of a run, and compute threads of its workers"
    )
    gpus: NonNegativeFloat = Field(
        0.0, description="GPUs of a run; a fraction lets several runs share one"
    )


class CostConfig(Section):
    """Cost of devices, for the comparison with the price of labels. The defaults are estimates, to
    be set for the machine at hand.
    """

    label_prices: list[PositiveFloat] = Field(
        [0.01, 0.1, 1.0, 10.0], description="Prices of a label in dollars"
    )
    device_dollars_per_hour: PositiveFloat = Field(
        0.05, description="Price of an hour of what one run takes"
    )
    device_watts: PositiveFloat = Field(15.0, description="Power of what one run takes, in watts")


class AnalysisConfig(Section):
    """Settings of the analysis of results."""

    baseline: str = Field("random", description="Strategy that the others are compared with")
    rivals: dict[str, str] = Field(
        default_factory=dict,
        description="Further comparisons: a strategy, and the one that it is compared with",
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(
        0.95, description="Level of the intervals"
    )
    resamples: PositiveInt = Field(2000, description="Resamples behind an interval")
    seed: NonNegativeInt = Field(0, description="Seed of the resamples")
    gain_thresholds: list[PositiveFloat] = Field(
        [0.0005, 0.001, 0.002, 0.005],
        description="Rises of the metric a label at which stopping by predicted gain is tried on "
        "every curve",
    )
    certainty: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.8, description="As stopping.gain.certainty"
    )


class BenchConfig(Section):
    """A suite: every strategy with every seed and order, on every task, with every model."""

    name: str = Field("bench", description="Name of the suite and beginning of its runs' names")
    storage: str = Field(
        "./atgen-runs", description="Folder or fsspec URL that holds the runs, as of any run"
    )
    run: Tree = Field(
        default_factory=dict, description="Part of a run's configuration that all runs share"
    )
    tasks: dict[str, TaskConfig] = Field(description="Tasks by name")
    models: dict[str, Tree] = Field(
        description="Part of a run's configuration for each model, by name"
    )
    strategies: dict[str, Tree] = Field(
        description="Part of a run's configuration for each strategy, by name; its "
        "selection.strategy, unless given"
    )
    seeds: list[NonNegativeInt] = Field(
        [1, 2, 3, 4, 5], description="Seeds; five or more for any claim"
    )
    orders: list[NonNegativeInt] = Field(
        [0], description="Orders of training (training.order) for each seed"
    )
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    parallel: PositiveInt | None = Field(
        None, description="Runs at once at most; null: as many as fit"
    )
    keep_adapters: bool = Field(False, description="Keep the adapters of runs that are finished")
    analysis: AnalysisConfig = Field(default_factory=AnalysisConfig)
    cost: CostConfig = Field(default_factory=CostConfig)

    @model_validator(mode="after")
    def _fits(self) -> "BenchConfig":
        groups: dict[str, dict[str, Any]] = {
            "tasks": self.tasks,
            "models": self.models,
            "strategies": self.strategies,
        }
        for key, group in groups.items():
            if not group:
                raise ValueError(f"{key} is empty, expected at least one")
            for name in group:  # names become parts of names of runs
                if not NAME_PATTERN.fullmatch(name.replace("_", "-")):
                    raise ValueError(
                        f"{key} holds the name {name[:80]!r}, expected a-z, 0-9, - and _"
                    )
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise ValueError(
                f"name is {self.name[:80]!r}, expected a-z, 0-9 and -, at most 31 characters"
            )
        _check_distinct("seeds", self.seeds)
        _check_distinct("orders", self.orders)
        rivals = [
            (f"analysis.rivals.{name}", other) for name, other in self.analysis.rivals.items()
        ]
        named = [("analysis.baseline", self.analysis.baseline), *rivals]
        named += [("a key of analysis.rivals", name) for name in self.analysis.rivals]
        for key, name in named:
            if name not in self.strategies:
                raise ValueError(
                    f"{key} is {name!r}, expected one of strategies{nearest(name, self.strategies)}"
                )
        for key, tree in self._trees():
            for name in OWN:
                if name in tree:
                    raise ValueError(
                        f"{key}.{name} is given, expected it in the suite alone, which sets it "
                        f"for each run"
                    )
        return self

    def _trees(self) -> list[tuple[str, Tree]]:
        parts = [(f"tasks.{name}.run", task.run) for name, task in self.tasks.items()]
        parts += [(f"models.{name}", tree) for name, tree in self.models.items()]
        return [
            ("run", self.run),
            *parts,
            *((f"strategies.{name}", tree) for name, tree in self.strategies.items()),
        ]


def _check_distinct(key: str, values: list[int]) -> None:
    if not values or len(set(values)) != len(values):
        raise ValueError(f"{key} is {values}, expected one or more, each once")
