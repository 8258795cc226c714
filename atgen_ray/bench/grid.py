"""Trials of a suite: one run for every combination, each with its own configuration.

Example:
    trials = list_trials(load_suite("benchmarks/suites/smoke.yaml", []))
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from atgen_ray.bench.config import BenchConfig
from atgen_ray.config import RunConfig
from atgen_ray.config.loading import (
    apply_overrides,
    database_url_from_environment,
    parse_config,
    read_file,
)
from atgen_ray.config.messages import format_validation_errors
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.hashing import digest
from atgen_ray.core.schema import merge_trees
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.evaluation import METRICS

LONGEST = 63  # characters of a run's name


@dataclass(frozen=True)
class Trial:
    """One run of a suite, and the values that identify it."""

    task: str
    model: str
    strategy: str
    seed: int
    order: int
    run: RunConfig

    @property
    def pair(self) -> tuple[str, str, int, int]:
        """Return what this run has in common with the run of the baseline that it is compared
        with.
        """
        return self.task, self.model, self.seed, self.order

    def describe(self) -> str:
        """Return a short description of the run."""
        return f"{self.task} {self.model} {self.strategy} seed {self.seed}" + (
            f" order {self.order}" if self.order else ""
        )


def load_suite(source: str, overrides: list[str], storage: str | None = None) -> BenchConfig:
    """Return the suite in the YAML file `source`, with `overrides` (key=value) applied.

    Raises:
        UserError: the file is missing or not YAML, or keys or values are wrong; one line for each
            mistake.
    """
    tree = parse_yaml(read_file(source), f"suite '{source}'")
    if not isinstance(tree, dict):
        raise UserError(
            f"suite '{source}' holds no keys and values, expected tasks, models and strategies"
        )
    tree.setdefault("name", Path(source).stem.lower().replace("_", "-"))
    apply_overrides(tree, overrides)
    if storage is not None:
        tree["storage"] = storage
    try:
        return BenchConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(format_validation_errors(error, BenchConfig))) from None


def list_trials(suite: BenchConfig) -> list[Trial]:
    """Return every run of the suite. Neighbours differ in their task, so that concurrent runs
    seldom compute the same features.

    Raises:
        UserError: a combination makes no valid configuration; names it and every mistake.
    """
    url = database_url_from_environment()
    combined = product(suite.orders, suite.seeds, suite.strategies, suite.models, suite.tasks)
    trials = [
        Trial(
            task,
            model,
            strategy,
            seed,
            order,
            _configure(suite, task, model, strategy, seed, order, url),
        )
        for order, seed, strategy, model, task in combined
    ]
    for trial in trials:
        metric = suite.tasks[trial.task].metric
        known = trial.run.evaluation.metrics or list(METRICS)
        if metric not in known:
            hint = nearest(metric, known)
            raise UserError(
                f"tasks.{trial.task}.metric is {metric!r}, expected one of evaluation.metrics{hint}"
            )
        if METRICS[metric].better == "neither":
            raise UserError(
                f"tasks.{trial.task}.metric is {metric!r}, expected one of which larger or smaller "
                "is better"
            )
    _check_directions(suite)
    return trials


def _check_directions(suite: BenchConfig) -> None:
    """Raise UserError unless all tasks' metrics are better in one direction: differences are
    averaged over the tasks.
    """
    directions = {name: METRICS[task.metric].better for name, task in suite.tasks.items()}
    first, *others = suite.tasks
    for name in others:
        if directions[name] != directions[first]:
            raise UserError(
                f"tasks.{name}.metric is {suite.tasks[name].metric!r}, expected one of which "
                f"{'larger' if directions[first] == 'higher' else 'smaller'} is better, as of "
                f"tasks.{first}, or a suite of its own"
            )


def _configure(
    suite: BenchConfig,
    task: str,
    model: str,
    strategy: str,
    seed: int,
    order: int,
    url: SecretStr | None,
) -> RunConfig:
    # Later parts replace values of earlier ones. All runs share one split of the data, hence its
    # own seed.
    tree: dict[str, Any] = {"data": {"seed": 0}, "selection": {"strategy": strategy}}
    tree = merge_trees(tree, _share_resources(suite))
    for part in (suite.run, suite.tasks[task].run, suite.models[model], suite.strategies[strategy]):
        tree = merge_trees(tree, part)
    tree = merge_trees(tree, {"training": {"order": order}})
    tree |= {
        "name": _name(suite, task, model, strategy, seed, order),
        "seed": seed,
        "storage": suite.storage,
        "cache": f"{suite.storage.rstrip('/')}/shared",
    }
    if url is not None:
        tree["database_url"] = url
    try:
        return parse_config(tree)
    except UserError as error:
        where = f"task '{task}', model '{model}', strategy '{strategy}'"
        raise UserError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None


def _share_resources(suite: BenchConfig) -> dict[str, Any]:
    """Return settings that keep the workers of a run within its share of the cluster. Half of each
    CPU stays free for Ray Data's own tasks.
    """
    cpus = suite.resources.cpus
    gpus = suite.resources.gpus
    threads = max(1, int(cpus))
    engine = {
        "cpus_per_worker": cpus / 2,
        "threads_per_worker": threads,
        "gpus_per_worker": gpus,
    }
    training: dict[str, Any] = {
        "cpus_per_worker": cpus / 2,
        "threads_per_worker": threads,
        "use_gpu": bool(gpus),
    }
    if gpus:
        training["gpus_per_worker"] = gpus
    return {"engine": engine, "training": training, "embedding": {"gpus_per_worker": gpus}}


def _name(suite: BenchConfig, task: str, model: str, strategy: str, seed: int, order: int) -> str:
    """Return the name of a run, which holds the model if there are several. A name that is too long
    is cut and gets a hash.
    """
    parts = [suite.name, task, *([model] if len(suite.models) > 1 else []), strategy, f"s{seed}"]
    parts += [f"o{order}"] if len(suite.orders) > 1 else []
    name = "-".join(parts).replace("_", "-")
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9].rstrip('-')}-{digest(name, size=4)}"
