"""Questions to the nodes that may hold workers: what is installed there, and what they compute on.

A head is often a small machine without GPU and engines. So nothing that workers need is looked up
in the process that starts them: each node answers for itself, in a task that reserves nothing, or
the smallest share of a GPU.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from atgen_ray.core.errors import UserError
from atgen_ray.ray_runtime.hardware import Device, inspect_device, task_environment

SECONDS = 120.0  # how long the nodes may take to answer: a worker process starts first
SMALLEST_SHARE = 0.0001  # of a GPU that Ray lets a task reserve

T = TypeVar("T")
Node = dict[str, Any]  # as `ray.nodes` returns it

logger = logging.getLogger(__name__)


def list_hosts(gpus: float) -> list[Node]:
    """Return the nodes that have CPUs and `gpus` GPUs, the needs of one worker; all if none has.
    They are sorted by address.
    """
    import ray

    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: (node["NodeManagerAddress"], node["NodeID"]),
    )
    hosts = [
        node
        for node in nodes
        if node["Resources"].get("CPU", 0.0) and node["Resources"].get("GPU", 0.0) >= gpus
    ]
    return hosts or nodes


def name_nodes(nodes: Sequence[Node]) -> dict[str, str]:
    """Return the name of each node by its id: its address, with the id where others share it."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    return {
        node["NodeID"]: address
        if addresses.count(address) == 1
        else f"{address} ({node['NodeID'][:8]})"
        for node, address in zip(nodes, addresses, strict=True)
    }


def ask_nodes(
    questions: Mapping[str, Callable[[], T]], gpus: float = 0.0, missing: T | None = None
) -> dict[str, T]:
    """Return what each question returns in a task on the node whose id is its key, by that id.

    A node that is lost meanwhile is left out: Ray places workers on the others.

    Args:
        gpus: share of a GPU that the tasks reserve, so that they see one.
        missing: the answer for a node that gives none in time, as when all its GPUs are taken.

    Raises:
        UserError: a node did not answer in `SECONDS` and `missing` is None, or none could be asked.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for id_, question in questions.items():
        here = NodeAffinitySchedulingStrategy(id_, soft=False)
        # The environment of other tasks, so that their processes answer, or do the work later.
        task = ray.remote(_answer).options(
            num_cpus=0,
            num_gpus=gpus,
            scheduling_strategy=here,
            runtime_env={"env_vars": task_environment()},
        )
        asked[id_] = task.remote(question)
    names = name_nodes([node for node in ray.nodes() if node["Alive"]])
    found: dict[str, T] = {}
    for id_, answer in asked.items():
        try:
            found[id_] = ray.get(answer, timeout=SECONDS)
        except GetTimeoutError:
            ray.cancel(answer, force=True)
            if missing is None:
                raise UserError(
                    f"the node {names.get(id_, id_)} of this Ray cluster did not answer in "
                    f"{SECONDS:.0f} s"
                ) from None
            found[id_] = missing
        except RayError as error:
            logger.warning("the node %s could not be asked: %s", names.get(id_, id_), error)
    if questions and not found:
        raise UserError(f"no node of this Ray cluster answers: {', '.join(names.values())}")
    return found


def survey(question: Callable[[], T], gpus: float = 0.0) -> dict[str, T]:
    """Return the answer of every node that may hold a worker with `gpus` GPUs, by its name.

    This process answers where Ray is not connected, or where no other node may hold one and the
    answer is not about GPUs.
    """
    import ray

    if not ray.is_initialized():
        return {"this machine": question()}
    hosts = list_hosts(gpus)
    names = name_nodes(hosts)
    here = ray.get_runtime_context().get_node_id()
    if [node["NodeID"] for node in hosts] == [here]:
        return {names[here]: question()}
    answers = ask_nodes({node["NodeID"]: question for node in hosts})
    return {names[id_]: answer for id_, answer in answers.items()}


def survey_devices(gpus: float) -> dict[str, Device]:
    """Return the device of workers with `gpus` GPUs on every node that may hold one, by its name.

    A GPU that Ray counts need not be one of CUDA, so a task with a share of it looks. If Ray is not
    connected, no node is up that has as many GPUs, or no GPU has a share left, as when a new
    replica is to replace the one that holds it, the GPUs are taken for CUDA with bfloat16.
    """
    import ray

    assumed = Device(cuda=True, bfloat16=True)
    if not ray.is_initialized():
        return {"this machine": assumed if gpus else inspect_device()}
    hosts = list_hosts(gpus)
    if gpus and not any(node["Resources"].get("GPU", 0.0) >= gpus for node in hosts):
        return {"nodes to come": assumed}  # those of an autoscaler, perhaps
    names = name_nodes(hosts)
    questions = {node["NodeID"]: inspect_device for node in hosts}
    answers = ask_nodes(questions, SMALLEST_SHARE if gpus else 0.0, assumed if gpus else None)
    return {names[id_]: device for id_, device in answers.items()}


def find_device(gpus: float) -> Device:
    """Return the device of workers with `gpus` GPUs each: the same on all nodes, with bfloat16 if
    all have it.

    Raises:
        UserError: some compute on CUDA, and others on the CPU.
    """
    found = survey_devices(gpus)
    kinds = {name: "CUDA" if device.cuda else "the CPU" for name, device in found.items()}
    if differing := describe_difference(kinds):
        raise UserError(
            f"workers with {gpus:g} GPUs would compute with {differing}: expected the same on all "
            f"nodes of this Ray cluster"
        )
    return Device(
        cuda=all(device.cuda for device in found.values()),
        bfloat16=all(device.bfloat16 for device in found.values()),
    )


def describe_difference(answers: Mapping[str, str]) -> str:
    """Return `A on NODES, B on NODES` for nodes that give different answers, else an empty text."""
    kinds: dict[str, list[str]] = {}
    for name, answer in answers.items():
        kinds.setdefault(answer, []).append(name)
    if len(kinds) < 2:
        return ""
    return ", ".join(f"{answer} on {' and '.join(names)}" for answer, names in kinds.items())


def _answer(question: Callable[[], T]) -> T:
    return question()
