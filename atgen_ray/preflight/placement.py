"""Checks of workers on a cluster: each runs on every machine on which a worker of its kind could be
placed.
"""

import logging
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.preflight.check import Check, Goal, Setting, list_models, run_checks
from atgen_ray.ray_runtime.private_api import read_autoscaler_maximum

SECONDS = 120.0  # how long the machines may take to answer: a worker process starts first

logger = logging.getLogger(__name__)


def find_problems_of_machines(
    config: RunConfig, goal: Goal, checks: dict[str, tuple[Check, ...]]
) -> list[str]:
    """Return the lines of the worker `checks` (named by the kind of worker) on the machines of the
    connected Ray cluster.

    Machines that an autoscaling cluster has not started yet are not checked, but their GPUs count.

    Raises:
        UserError: a machine did not answer within `SECONDS`.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    setting = Setting(config, goal, _count_cluster_gpus())
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked: dict[str, Any] = {}
    for node in nodes:
        kinds = [kind for kind in checks if node in _list_hosts(kind, setting, nodes)]
        chosen = [check for kind in kinds for check in checks[kind]]
        if chosen:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # The task reserves nothing, so that it also runs on a machine that is fully used.
            task = ray.remote(num_cpus=0, scheduling_strategy=here)(run_checks)
            asked[node["NodeManagerAddress"]] = task.remote(chosen, setting)
    found: dict[str, list[str]] = {}
    for address, answer in asked.items():
        try:
            found[address] = ray.get(answer, timeout=SECONDS)
        except GetTimeoutError:
            raise UserError(
                f"the machine at {address} of this Ray cluster did not answer in {SECONDS:.0f} s"
            ) from None
        except RayError as error:  # the machine was lost: Ray places workers on the others
            logger.warning("the machine at %s could not be checked: %s", address, error)
    return _merge(found)


def _count_cluster_gpus() -> float:
    import ray

    now = float(ray.cluster_resources().get("GPU", 0.0))
    return max(now, float(read_autoscaler_maximum().get("GPU", 0.0)))


def _list_hosts(kind: str, setting: Setting, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes with CPUs and with the GPUs that one worker of that kind needs; all nodes if
    none has. A head without CPUs thus needs nothing that workers need.
    """
    gpus = _gpus_of_worker(kind, setting)
    hosts = [
        node
        for node in nodes
        if node["Resources"].get("GPU", 0.0) >= gpus and node["Resources"].get("CPU", 0.0)
    ]
    return hosts or nodes


def _gpus_of_worker(kind: str, setting: Setting) -> float:
    config = setting.config
    if kind == "any":
        return 0.0
    if kind == "training":
        return config.training.gpus_per_worker if setting.trains_on_gpu else 0.0
    if kind == "encoder":
        wanted = config.embedding.workers * config.embedding.gpus_per_worker
        return config.embedding.gpus_per_worker if setting.gpus >= wanted else 0.0
    if kind == "engine":
        shares = [engine.gpus_per_worker for _, _, engine in list_models(setting)]
        return max(min(setting.gpus, 1.0) if share is None else share for share in shares)
    return min(setting.gpus, 1.0)


def _merge(found: dict[str, list[str]]) -> list[str]:
    """Return each line once, with the machines it holds for unless it holds for all."""
    lines = dict.fromkeys(line for answer in found.values() for line in answer)
    merged = []
    for line in lines:
        affected = [address for address, answer in found.items() if line in answer]
        merged.append(line if len(affected) == len(found) else f"{line} (on {', '.join(affected)})")
    return merged
