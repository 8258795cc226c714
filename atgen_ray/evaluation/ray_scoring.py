"""Computation of metrics on Ray: a metric that loads a model runs in a task, with a GPU if the
cluster has one; any other metric runs in this process.
"""

from collections.abc import Sequence

from atgen_ray.core.errors import UserError, root_message
from atgen_ray.evaluation.aggregation import score_cases
from atgen_ray.evaluation.metric import Case, Resources
from atgen_ray.evaluation.registry import METRICS
from atgen_ray.ray_runtime.hardware import count_threads, fit_cpus, task_environment
from atgen_ray.ray_runtime.placement import fit_gpus


def score_on_ray(name: str, cases: Sequence[Case], resources: Resources) -> Sequence[float]:
    """Return the values of metric `name`.

    Raises:
        UserError: as the metric does, such as for a checkpoint that cannot be loaded.
    """
    if not METRICS[name].heavy:
        return score_cases(name, cases, resources)
    import ray

    environment = {"env_vars": task_environment()}
    gpus = fit_gpus("evaluation.metrics", 1, None)
    task = ray.remote(score_in_task).options(
        num_cpus=fit_cpus(1, 1.0), num_gpus=gpus, runtime_env=environment
    )
    try:
        values: Sequence[float] = ray.get(
            task.remote(name, list(cases), Resources(resources.models))
        )
    except UserError as mistake:  # Ray's own subclass of it carries a traceback in its text
        raise UserError(root_message(mistake)) from None
    return values


def score_in_task(name: str, cases: Sequence[Case], resources: Resources) -> Sequence[float]:
    """Return the values of metric `name`; the task of `score_on_ray`.

    The process may have run another step with fewer threads, so the number is set anew.
    """
    import torch

    torch.set_num_threads(count_threads(1, None))
    return score_cases(name, cases, resources)
