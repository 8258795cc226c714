"""Checks before a run: all that can be tried before its first paid or long step, reported together.

A check yields one line for each problem: the key, its value, and what to do. Checks load no model
and ask no provider. `CONTROLLER_CHECKS` try what the run's controller needs, on this machine.
`WORKER_CHECKS`, named by the kind of worker, try what workers need, on the machines on which Ray
may place them. Without a cluster both are this machine, and Ray need not run.

Example:
    raise_problems(find_problems(config) + find_cluster_problems(config))
"""

from collections.abc import Iterable, Iterator
from functools import partial

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.preflight.check import Check, Goal, Setting, run_checks
from atgen_ray.preflight.checkpoints import (
    check_encoder,
    check_metric_models,
    check_models,
    check_start_adapter,
)
from atgen_ray.preflight.columns import check_columns
from atgen_ray.preflight.folders import (
    check_storage,
    check_user_cache,
    check_user_folders,
    mark_storage,
)
from atgen_ray.preflight.inputs import (
    Inputs,
    check_data,
    check_data_files,
    check_ids,
    check_metrics,
    check_prompts,
    find_data_files,
    find_notes,
)
from atgen_ray.preflight.packages import (
    check_annotators,
    check_engines,
    check_gold_items,
    check_nodes_alike,
    check_notifications,
    check_service,
    check_trackers,
    check_training,
)
from atgen_ray.preflight.placement import find_problems_of_machines
from atgen_ray.preflight.rivals import check_rivals
from atgen_ray.ray_runtime.private_api import count_visible_gpus

__all__ = [
    "CONTROLLER_CHECKS",
    "INPUT_CHECKS",
    "WORKER_CHECKS",
    "Goal",
    "Inputs",
    "Setting",
    "find_cluster_problems",
]
__all__ += ["find_notes", "find_problems", "find_quick_problems", "raise_problems", "run_checks"]

CONTROLLER_CHECKS: tuple[Check, ...] = (
    check_user_folders,
    check_storage,
    check_start_adapter,
    check_annotators,
    check_gold_items,
    check_trackers,
    check_notifications,
)
INPUT_CHECKS = (
    check_data,
    check_ids,
    check_columns,
    check_prompts,
    check_metrics,
    check_rivals,
)
WORKER_CHECKS: dict[str, tuple[Check, ...]] = {
    "training": (check_training,),
    "engine": (check_engines, check_models),
    "encoder": (check_encoder,),
    "metric": (check_metric_models,),
}


def find_problems(
    config: RunConfig, goal: Goal = "run", inputs: Inputs | None = None, cluster: bool = False
) -> list[str]:
    """Return the problems that this process can find without starting Ray.

    Args:
        inputs: the splits, from a caller that goes on to use them; by default they are read here.
        cluster: leave out the checks of workers, which `find_cluster_problems` runs on a cluster.
    """
    inputs = inputs or Inputs(config)
    checks: list[Check] = [
        *CONTROLLER_CHECKS,
        *(partial(check, inputs=inputs) for check in INPUT_CHECKS),
    ]
    if cluster:
        return run_checks(checks, Setting(config, goal))
    checks += [check_service, *(check for each in WORKER_CHECKS.values() for check in each)]
    return run_checks(checks, Setting(config, goal, float(count_visible_gpus())))


def find_cluster_problems(config: RunConfig, goal: Goal = "run") -> list[str]:
    """Return the problems of workers on the machines of the Ray cluster that this process is
    connected to.
    """
    return run_checks([check_service, _check_nodes, check_nodes_alike], Setting(config, goal))


def _check_nodes(setting: Setting) -> Iterator[str]:
    """Check what workers need, the storage and the data on every machine where they may run."""
    config = setting.config
    with mark_storage(config) as check_shared:
        has_data = partial(check_data_files, places=find_data_files(config.data))
        checks = {"any": (check_user_cache, check_shared, has_data), **WORKER_CHECKS}
        yield from find_problems_of_machines(config, setting.goal, checks)


def find_quick_problems(config: RunConfig) -> list[str]:
    """Return the problems that are found at once, without reading data or checkpoints: for a form
    that is checked while the user types.
    """
    return run_checks([check_annotators], Setting(config))


def raise_problems(problems: Iterable[str]) -> None:
    """Raise UserError with a line for each problem, unless there are none."""
    if lines := list(dict.fromkeys(problems)):
        raise UserError("\n".join(lines))
