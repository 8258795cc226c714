"""The end of a service that is told to end: whoever can be told is not cut off, in a bounded time.

1. Serve deletes the application: no new requests, and those under way have 20 s.
2. Replicas see that, tell it to event streams, and go on with no interrupted run any more.
3. In a private Ray, which ends with the service, the controllers of runs hand over: they free their
   leases in a run that is still under way, and the next service goes on with it at once. In a
   cluster they outlive the service and are left alone.

People's leases of tasks are in the database and stay as they are.
"""

import logging
import time

from ray.exceptions import RayError

from atgen_ray.engines.serve_engine import APP
from atgen_ray.ray_runtime.session import NAMESPACE, is_private
from atgen_ray.runs.controller_actor import actor_name

DRAIN_SECONDS = 30.0
LOOK_SECONDS = 0.5
KEPT_SECONDS = 1.0  # how long a replica takes an answer of Serve for true

logger = logging.getLogger(__name__)
_seen: dict[str, tuple[float, bool]] = {}


def is_ending() -> bool:
    """Return whether the application of this replica is being deleted; asks Serve once a second."""
    import ray
    from ray import serve

    if not ray.is_initialized():  # asking would start one
        return False
    asked, ending = _seen.get(APP, (-KEPT_SECONDS, False))
    if ending or time.monotonic() - asked < KEPT_SECONDS:
        return ending
    try:
        application = serve.status().applications.get(APP)
        ending = application is not None and application.status.value == "DELETING"
    except RayError:  # a controller of Serve that is away for a moment says nothing
        pass
    _seen[APP] = (time.monotonic(), ending)
    return ending


def drain() -> None:
    """Delete the application and hand over the runs of a private Ray; return when both are done,
    or after DRAIN_SECONDS.
    """
    from ray import serve

    deadline = time.monotonic() + DRAIN_SECONDS
    serve.delete(APP, _blocking=False)
    if is_private():
        time.sleep(2 * KEPT_SECONDS)  # until every replica has seen it: none resumes what comes now
        _hand_over(deadline)
    while APP in serve.status().applications and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def _hand_over(deadline: float) -> None:
    import ray

    names = _list_controllers()
    for name in names:
        try:
            ray.get_actor(name, namespace=NAMESPACE).hand_over.remote()
        except (ValueError, RayError) as error:  # it ends by itself
            logger.info("%s did not hand over: %s", name, error)
    while set(names) & set(_list_controllers()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def _list_controllers() -> list[str]:
    from ray.util import list_named_actors

    return [
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(actor_name(""))
    ]
