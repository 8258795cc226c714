"""Placement of workers by Ray: the share of a GPU that each may reserve, and what waits because
nothing is free.

Ray lets a worker wait without a message, also when no node can ever hold it. `check_gpus` refuses
such a worker beforehand; `watch_waiting` reports workers that wait.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Protocol
from weakref import WeakSet

from atgen_ray.core.errors import UserError
from atgen_ray.ray_runtime.hardware import count_gpus

Bundle = Mapping[str, float]  # of Ray resources, as in {"CPU": 1.0, "GPU": 0.5}

POLL_SECONDS = 2.0
FREED_SECONDS = 10.0  # until Ray counts GPUs as free whose holder has ended
REPORT_AFTER = 2  # polls in a row that must find something waiting before it is reported
UNITS = {"CPU": "CPUs", "GPU": "GPUs"}


class Holder(Protocol):
    """What keeps GPUs of this process for a later step."""

    def give_back(self) -> None:
        """Free the GPUs."""


_HOLDERS: WeakSet[Holder] = WeakSet()


def free_when_wanted(holder: Holder) -> None:
    """Have `fit_gpus` ask `holder` for its GPUs where others would wait for them for ever."""
    _HOLDERS.add(holder)


def fit_gpus(key: str, workers: int, asked: float | None) -> float:
    """Return the GPUs to reserve for each of `workers` workers.

    These are `asked` (None: one if the cluster has any), or a share of what is free if that is
    less, so that workers fit beside a replica of the service that holds a part of a GPU. Where
    nothing is free, holders in this process give theirs back. If nothing is free even then, the
    value stays as asked, and Ray lets the workers wait.

    Args:
        key: the configuration key of `asked`, for the message.

    Raises:
        UserError: not even one worker will ever fit.
    """
    gpus = float(min(count_gpus(), 1)) if asked is None else asked
    check_gpus(key, gpus)
    if not gpus:
        return gpus
    found = _find_share(workers, gpus)
    if found is None and (holders := list(_HOLDERS)):
        for holder in holders:
            holder.give_back()
        deadline = time.monotonic() + FREED_SECONDS
        while (found := _find_share(workers, gpus)) is None and time.monotonic() < deadline:
            time.sleep(0.1)
    return gpus if found is None else found


def _find_share(workers: int, gpus: float) -> float | None:
    """Return the GPUs that each of `workers` workers can have now, at most `gpus`; None if there
    are none.
    """
    _, free = _measure_nodes(_read_status())
    if gpus > 1:  # Ray does not divide several GPUs
        return gpus if _fits([{"GPU": gpus}], free) else None
    whole = sum(math.floor(node.get("GPU", 0.0) + 1e-6) for node in free)
    part = max((node.get("GPU", 0.0) for node in free), default=0.0)
    room = 1 / math.ceil(workers / whole) if whole else part / workers
    room = math.floor(room * 10_000 + 1e-6) / 10_000  # Ray rounds shares to four digits
    return min(gpus, room) if room > 0 else None


def check_gpus(key: str, gpus: float, workers: int = 1) -> None:
    """Check that `workers` workers with `gpus` GPUs each do not wait for ever.

    Args:
        key: the configuration key of `gpus`, for the message.
        gpus: GPUs that one worker reserves.
        workers: workers that must all fit at once.

    Raises:
        UserError: the cluster has fewer GPUs, and no autoscaler that could add nodes.
    """
    if not gpus:
        return
    status = _read_status()
    totals, _ = _measure_nodes(status)
    if _fits([{"GPU": gpus}] * workers, totals) or _may_grow(status):
        return
    largest = max((node.get("GPU", 0.0) for node in totals), default=0.0)
    each = f" for each of {workers} workers" if workers > 1 else ""
    raise UserError(
        f"{key} is {gpus:g}{each}, expected no more than this Ray cluster has: "
        f"{_sum(totals, 'GPU'):g} GPUs, "
        f"{largest:g} on its largest node"
    )


def has_room(bundles: Sequence[Bundle]) -> bool:
    """Return whether all bundles fit now beside what is reserved."""
    _, free = _measure_nodes(_read_status())
    return _fits(bundles, free)


def describe_waiting(gpus: bool = True) -> str | None:
    """Return one line on what Ray cannot place now and what is free; None if nothing waits.

    Args:
        gpus: count also demands for GPUs.
    """
    status = _read_status()
    totals, free = _measure_nodes(status)
    demands = [
        group
        for group in _list_demands(status.resource_demands)
        if gpus or not any(bundle.get("GPU") for bundle in group)
    ]
    waiting = [group for group in demands if not _fits(group, free)]
    if not waiting:
        return None
    asked = Counter(_describe_bundle(bundle) for group in waiting for bundle in group)
    wanted = ", ".join(
        f"{count} x {bundle}" if count > 1 else bundle for bundle, count in asked.items()
    )
    names = [name for name in UNITS if any(name in total for total in totals)]
    left = " and ".join(
        f"{_sum(free, name):g} of {_sum(totals, name):g} {UNITS[name]}" for name in names
    )
    # A demand that exceeds even an empty cluster needs another hint than patience.
    never = next((group for group in waiting if not _fits(group, totals)), None)
    hint = f"; no node has ever room for {_describe_bundle(never[0])}" if never else ""
    return f"Ray cannot place {wanted}: free are {left}{hint}"


@contextmanager
def watch_waiting(report: Callable[[str | None], None]) -> Iterator[None]:
    """Report during the block what Ray cannot place, within seconds, and None once it can."""
    ended = Event()
    thread = Thread(target=_watch, args=(report, ended), name="placement", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(report: Callable[[str | None], None], ended: Event) -> None:
    from ray.exceptions import RayError

    reported = False
    polls = 0
    while not ended.wait(POLL_SECONDS):
        try:
            waiting = describe_waiting()
        except RayError:  # the head does not answer; the work itself will fail and say so
            continue
        polls = polls + 1 if waiting else 0
        if polls >= REPORT_AFTER or (reported and not waiting):
            reported = waiting is not None
            report(waiting)


def _list_demands(demands: Any) -> Iterator[list[Bundle]]:
    """Yield what waits to be placed: each task or actor as one bundle, and the bundles of each
    placement group together.
    """
    for demand in demands.ray_task_actor_demand:
        for each in demand.bundles_by_count:
            # A task inside a placement group is left out: the group itself is in the list.
            inside = any("_group_" in name for name in each.bundle)
            if any(each.bundle.values()) and not inside:
                yield from [[each.bundle]] * each.count
    for group in demands.placement_group_demand:
        yield [each.bundle for each in group.bundles_by_count for _ in range(each.count)]


def _fits(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> bool:
    """Return whether all bundles fit on the nodes, each whole on one node, the largest first."""
    room = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda each: (-each.get("GPU", 0.0), -each.get("CPU", 0.0))):
        for node in room:
            if all(node.get(name, 0.0) + 1e-6 >= amount for name, amount in bundle.items()):
                for name, amount in bundle.items():
                    node[name] = node.get(name, 0.0) - amount
                break
        else:
            return False
    return True


def _measure_nodes(status: Any) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Return the resources of each live node: in total, and those that are not reserved."""
    nodes = [node.resource_usage.usage for node in _list_nodes(status) if node.resource_usage]
    totals = [{each.resource_name: each.total for each in node} for node in nodes]
    free = [{each.resource_name: each.total - each.used for each in node} for node in nodes]
    return totals, free


def _may_grow(status: Any) -> bool:
    """Return whether the cluster has an autoscaler.

    An autoscaler names the types of nodes; without one Ray names them by their ids.
    """
    named = any(
        node.ray_node_type_name not in ("", f"node_{node.node_id}") for node in _list_nodes(status)
    )
    return named or status.stats.autoscaler_version not in (None, "0")


def _list_nodes(status: Any) -> list[Any]:
    return [*status.active_nodes, *status.idle_nodes]


def _read_status() -> Any:
    """Return the cluster's `ClusterStatus`: its nodes, what is used of them and what waits."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    return get_cluster_status(ray.get_runtime_context().gcs_address)


def _describe_bundle(bundle: Bundle) -> str:
    return " and ".join(
        f"{amount:g} {_name(name, amount)}" for name, amount in sorted(bundle.items()) if amount
    )


def _name(name: str, amount: float) -> str:
    return name if amount == 1 else UNITS.get(name, name)


def _sum(nodes: Sequence[Bundle], name: str) -> float:
    return round(sum(node.get(name, 0.0) for node in nodes), 2)
