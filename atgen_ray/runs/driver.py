"""Driver of a run: it starts or rejoins the run's controller and follows it until the end.

This is `atgen-ray run` without its screen. A driver holds no state of the run: it may be killed and
started again at any time.
"""

import json
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
from atgen_ray.core.hashing import hash_text
from atgen_ray.core.progress import Activity
from atgen_ray.preflight import find_cluster_problems, find_problems, raise_problems
from atgen_ray.ray_runtime.session import NAMESPACE, is_private, run_session
from atgen_ray.runs.controller_actor import ControllerActor, actor_name
from atgen_ray.runs.leased_run import Goal, Snapshot
from atgen_ray.runs.stopping import BUDGET, MEASURED, SELECTED
from atgen_ray.runs.takeover import settle_source
from atgen_ray.store.additions import find_waiting
from atgen_ray.store.changes import audited
from atgen_ray.store.events import Event
from atgen_ray.store.housekeeping import set_served
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.layout import AUDIT_MODELS, round_folder
from atgen_ray.store.owner import name_user
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.run_records import explain_end

POLL_SECONDS = 0.5
EVERYTHING = 2**31 - 1  # above all sequence numbers
DISMISS_SECONDS = 10.0  # how long a controller that ended may take to go
SILENCE_SECONDS = 30.0  # how long a controller may be silent before its lease is checked
# Sections that say where things are kept and who is told; they do not change the results of a run.
PLACES = {"storage", "database_url", "cache", "notify"}


class Screen(Protocol):
    """Output for progress."""

    def show_event(self, event: Event) -> None: ...

    def show_activity(self, activity: dict[str, Any]) -> None: ...


def run_to_end(config: RunConfig, screen: Screen, goal: Goal = "run") -> Snapshot:
    """Start, resume or rejoin the run and return how it ended; with another goal, its first
    selection.

    SIGINT and SIGTERM stop the run; committed steps are kept, and the same call continues from
    there. A finished run is not started again.

    Raises:
        UserError: the run exists with another configuration, or the preflight found a problem; then
            the run is not created.
    """
    journal = open_journal(config.storage, config.database_url)
    if (end := find_end(config, journal, goal)) is not None:
        return end
    driven = journal.has_live_controller(config.name)
    # A screen shows the run's own steps once it has a controller, which takes a while.
    screen.show_activity(asdict(Activity(step="preflight")))
    problems = [] if driven else find_problems(config, goal, cluster=not is_private())
    if is_private():
        raise_problems(problems)
    screen.show_activity(asdict(Activity(step="connecting to Ray")))
    with run_session(), stop_on_signal() as stop:
        if not driven:
            raise_problems(
                problems if is_private() else problems + find_cluster_problems(config, goal)
            )
        with audited(journal.database, f"drive run to {goal}", run=config.name) as said:
            config = enter_run(config, journal)
            if not driven:
                set_served(journal, config.name, False)
            controller = start_controller(config, goal, detached=not is_private())
            snapshot = _follow(controller, journal, config.name, screen, stop)
            said["status"] = snapshot.status
        dismiss_ended(config.name)
    return snapshot


def find_end(config: RunConfig, journal: Journal, goal: Goal) -> Snapshot | None:
    """Return how the run ended if it has reached this goal before, or None if there is work left.

    Raises:
        UserError: as `check_entry`.
    """
    # Check before Ray is started, which takes seconds and may fail.
    config, changes = check_entry(config, journal)
    known = journal.find_run(config.name)
    if known is None or {change.key.split(".")[0] for change in changes} - PLACES:
        return None
    end = read_end(journal, config.name, 0, None)
    outputs = {"select": f"{round_folder(1)}/selection.parquet", "evaluate": AUDIT_MODELS}
    output = "metrics.json" if goal == "run" else outputs.get(goal, outputs["select"])
    unfinished = goal == "run" and end.message in (SELECTED, MEASURED)
    # More rows are a reason to go on, unless there is no money for their labels.
    if goal == "run" and known.status == "finished" and end.message != BUDGET:
        unfinished = unfinished or bool(find_waiting(journal, config.name))
    ended = known.status == "finished" and not unfinished
    return end if ended and RunFolder(config.storage, config.name).exists(output) else None


def check_entry(config: RunConfig, journal: Journal) -> tuple[RunConfig, list[Change]]:
    """Return the effective configuration, and its differences from the existing run of that name;
    write nothing.

    Raises:
        UserError: a run of that name has another configuration (the first key that may not change
            is named), or the run to take over from does not exist.
    """
    known = journal.find_run(config.name)
    if known is None:
        return settle_source(config, journal), []
    before = renew_config(known.config)
    if config.fork_from and str(before.get("fork_from")).startswith(f"{config.fork_from}:"):
        # The round was settled when the run was created.
        config = config.model_copy(update={"fork_from": before["fork_from"]})
    changes = [*find_changes(before, dump_config(config), RunConfig)]
    for change in changes:
        if not change.allowed:
            raise UserError(
                f"run '{config.name}' exists with {change.key} = {change.before!r}, now it is "
                f"{change.now!r}: give the "
                f"run its old value, or choose another --name (with --from {config.name} it takes "
                f"over the labels)"
            )
    # The storage holds this journal or belongs to it: another value is another path to it.
    return config, [change for change in changes if change.key != "storage"]


def enter_run(config: RunConfig, journal: Journal, author: str | None = None) -> RunConfig:
    """Create the run in the journal, or check that it matches the existing one; return its
    effective configuration.

    Changed settings become an event with `author`, which defaults to the user of this process.

    Raises:
        UserError: as `check_entry`.
        RunBusyError: something changes while a controller drives the run.
    """
    config, changes = check_entry(config, journal)
    tree = dump_config(config)
    digest = hash_text(json.dumps(tree, sort_keys=True))
    journal.create_run(config.name, tree, digest)
    if changes:
        listed = [
            {"key": change.key, "before": change.before, "now": change.now} for change in changes
        ]
        journal.change_run(
            config.name, tree, digest, {"changes": listed, "by": author or name_user()}
        )
    return config


def start_controller(
    config: RunConfig, goal: Goal = "run", detached: bool = True, request: str | None = None
) -> Any:
    """Return this cluster's controller of the run: the existing one, or a new one, which works for
    the HTTP request of the id `request`.

    It runs on this node, where a local journal is. With the journal on a server Ray restarts it on
    another node once this one is gone. Non-detached: the actor dies with this process. Used where
    no cluster outlives the process, because Ray does not share idle workers between detached
    actors.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    dismiss_ended(config.name)
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=not has_local_journal(config)
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
    ).remote(config, f"controller-{uuid.uuid4().hex}", goal, request)


def has_local_journal(config: RunConfig) -> bool:
    """Return whether the run's journal is a file, which only this node has."""
    url = config.database_url
    return url is None or url.get_secret_value().startswith("sqlite")


def find_activity(run: str) -> dict[str, Any] | None:
    """Return the step under way in this cluster's controller of the run, or None without one."""
    found = _find_controller(run)
    snapshot = found[1] if found else None
    return snapshot.activity if snapshot and snapshot.status == "running" else None


def has_controller(run: str) -> bool:
    """Return whether a controller of this cluster drives the run, or is about to."""
    found = _find_controller(run)
    return found is not None and (found[1] is None or found[1].status == "running")


def stop_controller(run: str) -> bool:
    """Ask a controller of this cluster that has no lease yet to stop; return whether there is one.

    One that has the lease hears of `Journal.ask_to_stop` instead, wherever it is. One that has not
    begun is ended: it would hear of the stop later, when the run may have been resumed with it.
    """
    found = _find_controller(run)
    if found is None:
        return False
    controller, snapshot = found
    if snapshot is None:
        ray.kill(controller, no_restart=True)
        return True
    if snapshot.status == "running":
        controller.stop.remote()
    return snapshot.status == "running"


def _find_controller(run: str) -> tuple[Any, Snapshot | None] | None:
    """Return this cluster's controller of the run and its state, which is None where it starts or
    Ray is restarting it; None without a controller.
    """
    if not ray.is_initialized():  # asking would start one
        return None
    try:
        controller = ray.get_actor(actor_name(run), namespace=NAMESPACE)
        return controller, ray.get(controller.poll.remote(EVERYTHING), timeout=POLL_SECONDS)
    except (GetTimeoutError, ActorUnavailableError):
        return controller, None
    except (ValueError, RayActorError):
        return None


def dismiss_ended(run: str) -> None:
    """End a controller whose run is over and that only waits for drivers to poll it. One that is
    about to end is waited for: whoever resumes a run at once must not be given that one.

    One that cannot be reached, as when its node is gone, is left alone.
    """
    deadline = time.monotonic() + DISMISS_SECONDS
    while time.monotonic() < deadline:
        try:
            controller = ray.get_actor(actor_name(run), namespace=NAMESPACE)
            snapshot: Snapshot = ray.get(controller.poll.remote(0), timeout=DISMISS_SECONDS)
            if snapshot.status != "running":
                ray.kill(controller, no_restart=True)
            elif not snapshot.closing:
                return
        except ValueError:  # no actor has that name
            return
        except (RayActorError, GetTimeoutError):  # it is going, or silent
            pass
        time.sleep(POLL_SECONDS)


def _follow(
    controller: Any, journal: Journal, run: str, screen: Screen, stop: threading.Event
) -> Snapshot:
    """Show what happens until the run is over."""
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
        except (ActorUnavailableError, GetTimeoutError):
            # Usually Ray is restarting it, and it will replay the journal. Where its node is gone
            # it cannot come back, which its expired lease shows.
            if time.monotonic() - heard > SILENCE_SECONDS and not journal.has_live_controller(run):
                return read_end(journal, run, seen, snapshot)
            time.sleep(POLL_SECONDS)
            continue
        except (ActorDiedError, ActorUnschedulableError):
            # It abandoned a step and ended itself, or it or its node was killed.
            return read_end(journal, run, seen, snapshot)
        for event in snapshot.events:
            screen.show_event(event)
            seen = event.sequence
        if snapshot.status != "running":
            return snapshot
        screen.show_activity(snapshot.activity)
        time.sleep(POLL_SECONDS)


def read_end(journal: Journal, run: str, seen: int, last: Snapshot | None) -> Snapshot:
    """Return how the run ended by its journal, for a controller that can no longer be polled."""
    events = journal.events(run, seen)
    status = journal.run(run).status
    message = explain_end(status, events)
    if status == "running":
        status = "failed"
        message = "the run's controller was ended from outside"
    return Snapshot(status, last.activity if last else {}, events, message, False)


@contextmanager
def stop_on_signal(urgent: bool = False) -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set; a second SIGINT raises KeyboardInterrupt at
    once, and so does a second SIGTERM if `urgent`.

    Python calls handlers of signals in the main thread only: elsewhere nothing sets the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _: Any) -> None:
        if stop.is_set() and (urgent or number == signal.SIGINT):
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
