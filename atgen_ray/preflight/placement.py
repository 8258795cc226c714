"""Worker checks on a cluster: each runs on every machine that a worker of its kind could be placed
on.
"""

import logging
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.preflight.check import Check, Goal, Setting, list_models, run_checks

SECONDS = 120.0  # how long the machines may take to answer: a worker process starts first

logger = logging.getLogger(__name__)


def count_local_gpus() -> float:
    """GPUs that a Ray started on this machine would find."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    found = manager.get_current_node_num_accelerators()
    return float(found if visible is None else min(found, len(visible)))


def find_problems_of_machines(
    config: RunConfig, goal: Goal, checks: dict[str, tuple[Check, ...]]
) -> list[str]:
    """The lines of the worker `checks` (named by the kind of worker) on the machines of the Ray
    that is connected.

    Machines of an autoscaling cluster that are not up yet are not asked; what they would have
    counts.
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
            # It reserves nothing, so that it runs also where everything is taken.
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
        except RayError as error:  # the machine went: Ray places workers on those that are left
            logger.warning("the machine at %s could not be checked: %s", address, error)
    return _merge(found)


def _count_cluster_gpus() -> float:
    import ray
    from ray._private.state import state

    now = float(ray.cluster_resources().get("GPU", 0.0))
    most = state.get_max_resources_from_cluster_config() or {}
    return max(now, float(most.get("GPU", 0.0)))


def _list_hosts(kind: str, setting: Setting, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes with the GPUs that one worker of that kind asks for; all where none has them."""
    gpus = _gpus_of_worker(kind, setting)
    return [node for node in nodes if node["Resources"].get("GPU", 0.0) >= gpus] or nodes


def _gpus_of_worker(kind: str, setting: Setting) -> float:
    config = setting.config
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
    """Each line once; with the machine in it where only some of them say so."""
    lines = dict.fromkeys(line for answer in found.values() for line in answer)
    merged = []
    for line in lines:
        told = [address for address, answer in found.items() if line in answer]
        merged.append(line if len(told) == len(found) else f"{line} (on {', '.join(told)})")
    return merged
