"""Checks of workers on a cluster: each runs on every machine on which a worker of its kind could be
placed.
"""

from functools import partial

from atgen_ray.config import RunConfig
from atgen_ray.preflight.check import Check, Goal, Setting, list_models, run_checks
from atgen_ray.ray_runtime.nodes import Node, ask_nodes, list_hosts, name_nodes
from atgen_ray.ray_runtime.private_api import read_autoscaler_maximum


def find_problems_of_machines(
    config: RunConfig, goal: Goal, checks: dict[str, tuple[Check, ...]]
) -> list[str]:
    """Return the lines of the worker `checks` (named by the kind of worker) on the machines of the
    connected Ray cluster.

    Machines that an autoscaling cluster has not started yet are not checked, but their GPUs count.

    Raises:
        UserError: a machine did not answer in time.
    """
    setting = Setting(config, goal, _count_cluster_gpus())
    chosen: dict[str, list[Check]] = {}
    hosts: dict[str, Node] = {}
    for kind, wanted in checks.items():
        for node in list_hosts(_gpus_of_worker(kind, setting)):
            hosts[node["NodeID"]] = node
            chosen.setdefault(node["NodeID"], []).extend(wanted)
    names = name_nodes([*hosts.values()])
    questions = {id_: partial(run_checks, some, setting) for id_, some in chosen.items()}
    found = {names[id_]: lines for id_, lines in ask_nodes(questions).items()}
    return _merge(found)


def _count_cluster_gpus() -> float:
    import ray

    now = float(ray.cluster_resources().get("GPU", 0.0))
    return max(now, float(read_autoscaler_maximum().get("GPU", 0.0)))


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
