"""Controller as a detached, named Ray actor: it outlives its driver, and a restarted one continues
from the journal.

Threads of the actor: one runs the round loop, one renews the lease, and Ray's own answer drivers.
Exactly one of them writes how the run ended (`_closing`).
"""

import logging
import threading
import time
import traceback
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import ray

from atgen_ray.config import RunConfig
from atgen_ray.core.credentials import redact
from atgen_ray.core.errors import (
    LeaseLostError,
    RunBusyError,
    RunStopped,
    UserError,
    root_message,
)
from atgen_ray.core.log_format import set_up_logs
from atgen_ray.core.private_files import use_private_files
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.request_ids import set_origin
from atgen_ray.ray_runtime.placement import watch_waiting
from atgen_ray.ray_runtime.session import quieten_ray_data
from atgen_ray.reporting.publish import publish_report
from atgen_ray.runs.failures import explain_failure
from atgen_ray.store.journal import HANDED_OVER, Event, Lease, Status, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import name_attempt

LEASE_SECONDS = 20.0
LIVELY_RENEWALS = 2  # of a lease while another controller waits for it, after which that gives up
IDLE_SECONDS = 60.0  # how long a controller stays after its run, for drivers that still poll
# How long a step may take to notice that it is to stop; `ray job stop` kills the driver after 3.
STOP_SECONDS = 2.0

Goal = Literal["run", "select", "measure"]  # measure: a run of a suite, without a report of its own

logger = logging.getLogger(__name__)


def actor_name(run: str) -> str:
    """Return the name of a run's controller in the Ray namespace `atgen`."""
    return f"controller-{run}"


@dataclass(frozen=True)
class Snapshot:
    """State of a run as drivers see it: status, new events, and the step under way."""

    status: Status
    activity: dict[str, Any]
    events: list[Event]
    message: str  # why it ended; for a failure the traceback
    mistake: bool  # whether the failure is one that the user can mend


class RemoteProgress:
    """Sends progress from another process to a controller; serialisable."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def __call__(self, done: int, total: int) -> None:
        self._controller.update.remote(done, total)


@ray.remote
class ControllerActor:
    """Runs the round loop in a thread and answers drivers meanwhile."""

    def __init__(
        self, config: RunConfig, owner: str, goal: Goal = "run", request: str | None = None
    ) -> None:
        """Acquire the run's lease (`owner` stays the same over restarts of this actor) and start or
        resume the run; `request` is the id of the HTTP request that asked for it.

        With the goal "select" the run ends once its first batch is selected.

        The constructor of an actor must not fail: `poll` reports errors instead.
        """
        set_up_logs()
        set_origin(request)
        use_private_files()
        self._config = config
        self._goal = goal
        self._journal = open_journal(config.storage, config.database_url)
        self._tracker = ProgressTracker()
        self._status: Status = "running"
        self._message = ""
        self._mistake = False
        self._lease: Lease | None = None
        self._handed = False  # the next controller goes on where this one stops
        self._closing = threading.Lock()  # its holder writes how the run ended
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._drive, args=(owner,), name="controller", daemon=True
        )
        self._thread.start()

    def poll(self, after: int) -> Snapshot:
        """Return the state of the run and its events with a sequence number above `after`."""
        # Read the status before the events, so that a run seen as ended has all of them.
        status = self._status
        message = self._message
        try:
            events = self._journal.events(self._config.name, after)
        except UserError:  # the database is unreachable; the run itself decides whether it can wait
            events = []
        return Snapshot(status, self._tracker.snapshot(), events, message, self._mistake)

    def update(self, done: int, total: int) -> None:
        """Count progress of a training worker."""
        self._tracker.update(done, total)

    def stop(self) -> None:
        """Stop the run at its next chance, or after a short wait in the middle of a step; committed
        steps are kept.
        """
        self._tracker.stop()
        timer = threading.Timer(STOP_SECONDS, self._abandon)
        timer.daemon = True
        timer.start()

    def hand_over(self) -> None:
        """Stop as `stop` does, but leave the run under way: its lease is free, and whoever takes it
        next goes on.
        """
        self._handed = True
        self.stop()

    def _drive(self, owner: str) -> None:
        """Run to the end and report it to drivers, even if the journal cannot be written."""
        status: Status = "failed"
        try:
            status, message, mistake = self._hold(self._acquire(ProcessIdentity(owner)))
        except RunStopped as stop:
            status = "stopped"
            message = str(stop)
            mistake = False
        except LeaseLostError as error:
            message = f"another controller took over: {error}"
            mistake = False
        except UserError as error:
            message = redact(root_message(error))
            mistake = True
        except Exception:  # the thread ends here: drivers get the traceback from `poll`
            message = redact(traceback.format_exc())
            mistake = False
        self._end(status, message, mistake)

    def _hold(self, lease: Lease) -> tuple[Status, str, bool]:
        """Run under the lease and write the end into the journal."""
        self._lease = lease
        threading.Thread(target=self._renew, args=(lease,), name="lease", daemon=True).start()
        self._journal.set_status(lease, "running")
        status, message, mistake = self._run(lease)
        with self._closing:
            self._close(lease, status, message)
        return status, message, mistake

    def _close(self, lease: Lease, status: Status, message: str) -> None:
        """Write the last entries of this controller and release the lease."""
        self._ended.set()
        if self._handed and status == "stopped":
            told = {"message": "handed over: the service ended"}
            self._journal.append(lease, HANDED_OVER, payload=told)
        else:
            last = message.strip().splitlines()[-1]
            self._journal.append(lease, status, payload={"message": last})
            self._journal.set_status(lease, status)
        lease.release()

    def _abandon(self) -> None:
        """End a run in the middle of a step, and this process with it; the step will be
        repeated.
        """
        with self._closing:
            if self._ended.is_set():
                return
            try:
                if self._lease is not None:
                    step = self._tracker.snapshot()["step"]
                    self._close(
                        self._lease, "stopped", f"stopped on request in the middle of {step}"
                    )
            finally:
                ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _acquire(self, owner: ProcessIdentity) -> Lease:
        """Acquire the run's lease; wait at most as long as the lease of a dead cluster can last,
        or until the holder is seen to be alive.

        A dead holder on this machine is recognised at once, one on another machine only by its
        lease that is no longer renewed. A holder that renews it again and again is alive; one whose
        driver was killed a moment ago may still do so once.
        """
        deadline = time.monotonic() + LEASE_SECONDS + 5
        seen = set[float | None]()
        while True:
            try:
                return self._journal.acquire(self._config.name, owner, LEASE_SECONDS)
            except RunBusyError as error:
                seen.add(error.expires)
                if len(seen) > LIVELY_RENEWALS or time.monotonic() > deadline:
                    raise
                self._tracker.start_step(0, "waiting for the run's lease")
                time.sleep(1)

    def _run(self, lease: Lease) -> tuple[Status, str, bool]:
        """Run to the end and return status, message and whether the user can mend the error."""
        from atgen_ray.runs.controller import Controller

        quieten_ray_data()
        folder = RunFolder(self._config.storage, self._config.name)
        remote = RemoteProgress(ray.get_runtime_context().current_actor)
        try:
            folder = folder.fenced(name_attempt(lease), lease.renew)
            controller = Controller(
                self._config, self._journal, lease, folder, self._tracker, remote
            )
            with closing(controller), watch_waiting(self._tracker.wait):
                reason = controller.run_selection() if self._goal == "select" else controller.run()
            if self._goal != "measure":
                lease.renew()
                publish_report(self._config, self._journal, folder, reason)
        except RunStopped as stop:
            return "stopped", str(stop), False
        except LeaseLostError:
            raise
        except Exception as error:  # the boundary of the actor: any error goes into the journal
            step = self._tracker.snapshot()["step"]
            message, mistake = explain_failure(error, self._config.name, step, folder.root)
            return "failed", message, mistake
        return "finished", reason, False

    def _renew(self, lease: Lease) -> None:
        """Renew the lease until the run ends; stop the run when asked to or when the lease is
        lost.
        """
        while not self._ended.wait(LEASE_SECONDS / 4):
            try:
                if lease.renew():
                    self.stop()
            except LeaseLostError:
                self._tracker.stop()
                return
            except UserError as error:
                # The database is unreachable: the lease is ours until somebody else takes it.
                logger.warning("the lease of run %s was not renewed: %s", self._config.name, error)

    def _end(self, status: Status, message: str, mistake: bool = False) -> None:
        """Set the result that `poll` returns, and end the actor after a while."""
        self._ended.set()
        self._message = message
        self._mistake = mistake
        self._status = status
        handle = ray.get_runtime_context().current_actor
        stays = 0.0 if self._handed else IDLE_SECONDS
        timer = threading.Timer(stays, lambda: ray.kill(handle, no_restart=True))
        timer.daemon = True
        timer.start()
