"""The runs of a suite: one for every combination, each with a configuration of its own."""

import hashlib
from collections.abc import Iterator, Mapping
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
from atgen_ray.config.messages import explain_mistakes
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.evaluation import METRICS

LONGEST = 63  # characters of a run's name


@dataclass(frozen=True)
class Trial:
    """One run of a suite, by what tells it from the others."""

    task: str
    model: str
    strategy: str
    seed: int
    order: int
    run: RunConfig

    @property
    def pair(self) -> tuple[str, str, int, int]:
        """What this run has in common with the baseline's that it is compared with."""
        return self.task, self.model, self.seed, self.order

    def describe(self) -> str:
        """The run in the words of the suite."""
        return f"{self.task} {self.model} {self.strategy} seed {self.seed}" + (
            f" order {self.order}" if self.order else ""
        )


def load_suite(source: str, overrides: list[str], storage: str | None = None) -> BenchConfig:
    """The suite in the YAML file `source`, with `overrides` (key=value) applied.

    Raises:
        UserError: a file that is not there, not YAML, or a key or value that is wrong; one line for
            each mistake.
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
        raise UserError("\n".join(explain_mistakes(error, BenchConfig))) from None


def list_trials(suite: BenchConfig) -> list[Trial]:
    """Every run of the suite; neighbours differ in their task, so that runs at once seldom need the
    same features.

    Raises:
        UserError: a combination makes no valid configuration; names it and every mistake.
    """
    url = database_url_from_environment()
    combined = product(suite.orders, suite.seeds, suite.strategies, suite.models, suite.tasks)
    cells = [
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
    for cell in cells:
        metric = suite.tasks[cell.task].metric
        known = cell.run.evaluation.metrics or list(METRICS)
        if metric not in known:
            hint = nearest(metric, known)
            raise UserError(
                f"tasks.{cell.task}.metric is {metric!r}, expected one of evaluation.metrics{hint}"
            )
        if METRICS[metric].better != "higher":
            raise UserError(
                f"tasks.{cell.task}.metric is {metric!r}, expected one of which larger is better"
            )
    return cells


def merge_trees(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` laid over it, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            merge_trees(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def _configure(
    suite: BenchConfig,
    task: str,
    model: str,
    strategy: str,
    seed: int,
    order: int,
    url: SecretStr | None,
) -> RunConfig:
    tree: dict[str, Any] = {"data": {"seed": 0}, "selection": {"strategy": strategy}}
    tree = merge_trees(tree, _share_resources(suite))
    for part in (suite.run, suite.tasks[task].run, suite.models[model], suite.strategies[strategy]):
        tree = merge_trees(tree, part)
    tree = merge_trees(tree, {"training": {"order": order}})
    tree |= {
        "name": _name(suite, task, model, strategy, seed, order),
        "seed": seed,
        "storage": suite.storage,
    }
    tree |= {"cache": f"{suite.storage.rstrip('/')}/shared"} | (
        {"database_url": url} if url else {}
    )
    try:
        return parse_config(tree)
    except UserError as error:
        where = f"task '{task}', model '{model}', strategy '{strategy}'"
        raise UserError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None


def _share_resources(suite: BenchConfig) -> dict[str, Any]:
    """Workers that keep to their run's part of the cluster; Ray's own tasks find half of each CPU
    free.
    """
    cpus = suite.resources.cpus
    gpus = suite.resources.gpus
    worker: dict[str, Any] = {"cpus_per_worker": cpus / 2, "threads_per_worker": max(1, int(cpus))}
    share = {"gpus_per_worker": gpus} if gpus else {}
    return {
        "engine": worker | {"gpus_per_worker": gpus},
        "training": worker | {"use_gpu": bool(gpus)} | share,
        "embedding": {"gpus_per_worker": gpus},
    }


def _name(suite: BenchConfig, task: str, model: str, strategy: str, seed: int, order: int) -> str:
    """A run's name, cut and told apart by a hash where it is too long; models are named where there
    are several.
    """
    parts = [suite.name, task, *([model] if len(suite.models) > 1 else []), strategy, f"s{seed}"]
    parts += [f"o{order}"] if len(suite.orders) > 1 else []
    name = "-".join(parts).replace("_", "-")
    if len(name) <= LONGEST:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{name[: LONGEST - 9].rstrip('-')}-{digest}"


def group_trials(cells: list[Trial]) -> Iterator[tuple[tuple[str, str], list[Trial]]]:
    """The runs of each task and model, in the order of the suite."""
    for key in dict.fromkeys((cell.task, cell.model) for cell in cells):
        yield key, [cell for cell in cells if (cell.task, cell.model) == key]
