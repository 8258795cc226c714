"""Starts or rejoins a run's controller and follows it: the part of `atgen-ray run` behind the
screen.
"""

import getpass
import hashlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    GetTimeoutError,
    RayActorError,
)

from atgen_ray.config import RunConfig
from atgen_ray.config.changes import Change, find_changes
from atgen_ray.config.loading import dump_config, renew_config
from atgen_ray.core.errors import UserError
from atgen_ray.preflight import find_cluster_problems, find_problems, raise_problems
from atgen_ray.ray_runtime.session import NAMESPACE, is_private, run_session
from atgen_ray.run.controller_actor import ControllerActor, Goal, Snapshot, actor_name
from atgen_ray.run.stopping import SELECTED
from atgen_ray.run.takeover import settle_source
from atgen_ray.store.journal import Event, Journal, open_journal
from atgen_ray.store.run_folder import RunFolder

POLL_SECONDS = 0.5
EVERYTHING = 2**31 - 1  # above all sequence numbers
DISMISS_SECONDS = 10.0  # how long a controller that ended may take to go
SILENCE_SECONDS = 30.0  # how long a controller may be silent before its lease is looked at
# Where things are kept: what a run comes to does not change with them.
PLACES = {"storage", "database_url", "cache"}


class Screen(Protocol):
    """Where progress is shown."""

    def show_event(self, event: Event) -> None: ...

    def show_activity(self, activity: dict[str, Any]) -> None: ...


def run_to_end(config: RunConfig, screen: Screen, goal: Goal = "run") -> Snapshot:
    """Runs (or resumes, or rejoins) the run, or with another goal its first selection, and returns
    how it ended.

    SIGINT and SIGTERM stop the run; what is committed stays, and the same call goes on from there.
    A run that is finished is not started again.

    Raises:
        UserError: the run exists with another configuration, or the preflight found what would end
            it; then it is not entered.
    """
    journal = open_journal(config.storage, config.database_url)
    if (end := find_end(config, journal, goal)) is not None:
        return end
    driven = journal.has_live_controller(config.name)
    problems = [] if driven else find_problems(config, goal, cluster=not is_private())
    if is_private():
        raise_problems(problems)
    with run_session(), stop_on_signal() as stop:
        if not driven:
            raise_problems(
                problems if is_private() else problems + find_cluster_problems(config, goal)
            )
        config = enter_run(config, journal)
        controller = start_controller(config, goal, detached=not is_private())
        snapshot = _follow(controller, journal, config.name, screen, stop)
        dismiss_ended(config.name)
    return snapshot


def find_end(config: RunConfig, journal: Journal, goal: Goal) -> Snapshot | None:
    """How the run ended, where it has come to this very end before; None where there is something
    left to do.

    Raises:
        UserError: as `check_entry`.
    """
    config, changes = check_entry(
        config, journal
    )  # before Ray, which takes seconds, and which may not start
    known = journal.find_run(config.name)
    if known is None or {change.key.split(".")[0] for change in changes} - PLACES:
        return None
    end = read_end(journal, config.name, 0, None)
    output = "metrics.json" if goal == "run" else "rounds/001/selection.parquet"
    ended = known.status == "finished" and not (goal == "run" and end.message == SELECTED)
    return end if ended and RunFolder(config.storage, config.name).exists(output) else None


def check_entry(config: RunConfig, journal: Journal) -> tuple[RunConfig, list[Change]]:
    """The run as it is to be driven, and what of it differs from the run of that name that is
    there; writes nothing.

    Raises:
        UserError: a run of that name has another configuration, whose first key that may not change
            is named; or what the run is to take over from another one is not there.
    """
    known = journal.find_run(config.name)
    if known is None:
        return settle_source(config, journal), []
    before = renew_config(known.config)
    if config.fork_from and str(before.get("fork_from")).startswith(f"{config.fork_from}:"):
        config = config.model_copy(
            update={"fork_from": before["fork_from"]}
        )  # whose round was settled then
    changes = [*find_changes(before, dump_config(config), RunConfig)]
    for change in changes:
        if not change.allowed:
            raise UserError(
                f"run '{config.name}' exists with {change.key} = {change.before!r}, now it is "
                f"{change.now!r}: give the "
                f"run its old value, or choose another --name (with --from {config.name} it takes "
                f"over the labels)"
            )
    return config, [
        change for change in changes if change.key != "storage"
    ]  # another path to the same place


def enter_run(config: RunConfig, journal: Journal, author: str | None = None) -> RunConfig:
    """Enters the run in the journal, or checks that it is the one entered before; returns it as it
    is to be driven.

    What changes of a run that is there becomes an event, with `author`: by default the user of this
    process.

    Raises:
        UserError: as `check_entry`.
        RunBusyError: something changes while a controller drives the run.
    """
    config, changes = check_entry(config, journal)
    tree = dump_config(config)
    digest = hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=16).hexdigest()
    journal.create_run(config.name, tree, digest)
    if changes:
        told = [
            {"key": change.key, "before": change.before, "now": change.now} for change in changes
        ]
        journal.change_run(
            config.name, tree, digest, {"changes": told, "by": author or name_user()}
        )
    return config


def name_user() -> str:
    """Who gives the command: USER@HOST."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def start_controller(config: RunConfig, goal: Goal = "run", detached: bool = True) -> Any:
    """This cluster's controller of the run: the one that drives it already, else a new one.

    It sits on this node, where a local storage and journal are. One that is not detached ends with
    this process, and leaves its workers to the next: Ray shares none between detached actors.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    dismiss_ended(config.name)
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft="://" in config.storage
    )
    return ControllerActor.options(  # type: ignore[attr-defined]
        name=actor_name(config.name),
        namespace=NAMESPACE,
        lifetime="detached" if detached else None,
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=8,
        num_cpus=0,
        scheduling_strategy=here,
    ).remote(config, f"controller-{uuid.uuid4().hex}", goal)


def find_activity(run: str) -> dict[str, Any] | None:
    """The step that this cluster's controller of the run is at; None when none drives it here."""
    if not ray.is_initialized():  # asking would start one
        return None
    try:
        controller = ray.get_actor(actor_name(run), namespace=NAMESPACE)
        snapshot: Snapshot = ray.get(controller.poll.remote(EVERYTHING), timeout=POLL_SECONDS)
    except (ValueError, RayActorError, GetTimeoutError):
        return None
    return snapshot.activity if snapshot.status == "running" else None


def has_controller(run: str) -> bool:
    """Whether a controller of this cluster drives the run, or is about to."""
    if not ray.is_initialized():  # asking would start one
        return False
    try:
        controller = ray.get_actor(actor_name(run), namespace=NAMESPACE)
        snapshot: Snapshot = ray.get(controller.poll.remote(EVERYTHING), timeout=POLL_SECONDS)
    except (GetTimeoutError, ActorUnavailableError):  # it starts, or Ray is restarting it
        return True
    except (ValueError, RayActorError):
        return False
    return snapshot.status == "running"


def dismiss_ended(run: str) -> None:
    """Ends a controller whose run is over and that only waits for drivers which may still ask.

    One that cannot be asked, as when the node that it was on is gone, is left alone.
    """
    deadline = time.monotonic() + DISMISS_SECONDS
    while time.monotonic() < deadline:
        try:
            controller = ray.get_actor(actor_name(run), namespace=NAMESPACE)
            if ray.get(controller.poll.remote(0), timeout=DISMISS_SECONDS).status == "running":
                return
            ray.kill(controller, no_restart=True)
        except ValueError:  # nobody has that name
            return
        except (RayActorError, GetTimeoutError):  # it is going, or silent
            pass
        time.sleep(POLL_SECONDS)


def _follow(
    controller: Any, journal: Journal, run: str, screen: Screen, stop: threading.Event
) -> Snapshot:
    """Shows what happens until the run is over."""
    seen = 0
    asked = False
    snapshot = None
    heard = time.monotonic()
    while True:
        if stop.is_set() and not asked:
            asked = True
            controller.stop.remote()
        try:
            snapshot = ray.get(controller.poll.remote(seen), timeout=SILENCE_SECONDS)
            heard = time.monotonic()
        except (
            ActorUnavailableError,
            GetTimeoutError,
        ):  # Ray is restarting it, and it will replay the journal
            if time.monotonic() - heard > SILENCE_SECONDS and not journal.has_live_controller(run):
                return read_end(
                    journal, run, seen, snapshot
                )  # with its node gone it cannot come back
            time.sleep(POLL_SECONDS)
            continue
        except (
            ActorDiedError,
            ActorUnschedulableError,
        ):  # it ended itself in a step, or it or its node was ended
            return read_end(journal, run, seen, snapshot)
        for event in snapshot.events:
            screen.show_event(event)
            seen = event.sequence
        if snapshot.status != "running":
            return snapshot
        screen.show_activity(snapshot.activity)
        time.sleep(POLL_SECONDS)


def read_end(journal: Journal, run: str, seen: int, last: Snapshot | None) -> Snapshot:
    """How the run stands by its journal, when its controller can no longer be asked."""
    events = journal.events(run, seen)
    status = journal.run(run).status
    message = next(
        (event.payload["message"] for event in reversed(events) if "message" in event.payload), ""
    )
    if status == "running":
        status = "failed"
        message = "the run's controller was ended from outside"
    return Snapshot(status, last.activity if last else {}, events, message, False)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event; a second SIGINT interrupts at once, as ever.

    Python hands signals to the main thread alone: elsewhere nothing sets the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

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
