"""Starts or rejoins a run's controller and follows it: the part of `atgen-ray run` behind the screen."""

import hashlib
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ray
from ray.exceptions import ActorUnavailableError

from atgen_ray.actor import LEASE_SECONDS, NAMESPACE, ControllerActor, Snapshot, actor_name
from atgen_ray.config import RunConfig
from atgen_ray.config_source import dump_config
from atgen_ray.errors import UserError
from atgen_ray.journal import Event, Journal, open_journal
from atgen_ray.owner import Owner

POLL_SECONDS = 0.5
STOP_SECONDS = 15.0  # how long a controller may take to stop by itself before it is killed
# What may change between two starts of one run: everything else would change what it means.
CHANGEABLE = ("stopping", "storage", "database_url")


class Screen(Protocol):
    """Where progress is shown."""

    def show_event(self, event: Event) -> None: ...

    def show_activity(self, activity: dict[str, Any]) -> None: ...


def run_to_end(config: RunConfig, screen: Screen) -> Snapshot:
    """Runs (or resumes, or rejoins) the run and returns how it ended.

    SIGINT and SIGTERM stop the run; what is committed stays, and the same call goes on from there.

    Raises:
        UserError: the run exists with another configuration.
    """
    journal = open_journal(config.storage, config.database_url)
    enter_run(config, journal)
    with ray_session(), _stop_on_signal() as stop:
        controller = _find_controller(config)
        snapshot = _follow(controller, journal, config.name, screen, stop)
        ray.kill(controller, no_restart=True)
    return snapshot


def enter_run(config: RunConfig, journal: Journal) -> None:
    """Enters the run in the journal, or checks that it is the one entered before.

    Raises:
        UserError: a run of that name has another configuration; names the first key that differs.
    """
    tree = dump_config(config)
    digest = hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=16).hexdigest()
    known = journal.create_run(config.name, tree, digest)
    for key, before, now in _differences(known.config, tree, ""):
        if key.split(".")[0] not in CHANGEABLE:
            raise UserError(
                f"run '{config.name}' exists with {key} = {before!r}, now it is {now!r}: "
                f"choose another --name, or give the run its old value (only stopping.* may change)"
            )


def _differences(before: Any, now: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, before, now


@contextmanager
def ray_session() -> Iterator[None]:
    """The cluster at RAY_ADDRESS, or a private one on this machine that ends with the run."""
    address = os.environ.get("RAY_ADDRESS")
    settings: dict[str, Any] = {} if address else {"include_dashboard": False}
    ray.init(
        address=address or "local",
        namespace=NAMESPACE,
        logging_level="error",
        log_to_driver=False,
        **settings,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _find_controller(config: RunConfig) -> Any:
    """This cluster's controller of the run, started if there is none.

    It sits on this node, where a local storage and journal are.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft="://" in config.storage)
    return ControllerActor.options(  # type: ignore[attr-defined]
        name=actor_name(config.name),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=8,
        num_cpus=0,
        scheduling_strategy=here,
    ).remote(config, f"controller-{uuid.uuid4().hex}")


def _follow(controller: Any, journal: Journal, run: str, screen: Screen, stop: threading.Event) -> Snapshot:
    seen, asked = 0, None
    while True:
        if stop.is_set() and asked is None:
            asked = time.monotonic()
            controller.stop.remote()
        try:
            snapshot: Snapshot = ray.get(controller.poll.remote(seen), timeout=30)
        except ActorUnavailableError:  # Ray is restarting it, and it will replay the journal
            time.sleep(POLL_SECONDS)
            continue
        for event in snapshot.events:
            screen.show_event(event)
            seen = event.sequence
        if snapshot.status != "running":
            return snapshot
        screen.show_activity(snapshot.activity)
        if asked is not None and time.monotonic() - asked > STOP_SECONDS:
            return _kill(controller, journal, run, snapshot)
        time.sleep(POLL_SECONDS)


def _kill(controller: Any, journal: Journal, run: str, last: Snapshot) -> Snapshot:
    """Ends a controller that is deep in a step; the step will be done again."""
    ray.kill(controller, no_restart=True)
    lease = journal.acquire(run, Owner(f"driver-{uuid.uuid4().hex}"), LEASE_SECONDS, takeover=True)
    message = f"stopped on request in the middle of {last.activity['step']}"
    journal.append(lease, "stopped", payload={"message": message})
    journal.set_status(lease, "stopped")
    lease.release()
    return Snapshot("stopped", last.activity, [], message, False)


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event; a second SIGINT interrupts at once, as ever."""
    stop = threading.Event()

    def handle(number: int, _: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
