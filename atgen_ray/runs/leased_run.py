"""A run in the hands of one controller: it takes the lease, renews it while the round loop works,
stops when it is asked to, and writes how the run ended.

Threads: one runs the round loop, one renews the lease, and whoever calls `stop` is another. Exactly
one of them writes how the run ended (`_closing`). It needs no Ray: `ControllerActor` puts it into
a process of its own.
"""

import logging
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from atgen_ray.config import RunConfig
from atgen_ray.config.notifications import Occasion
from atgen_ray.core.credentials import redact
from atgen_ray.core.errors import (
    LeaseLostError,
    RunBusyError,
    RunPaused,
    RunStopped,
    UserError,
    root_message,
)
from atgen_ray.core.machine import machine
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import Progress
from atgen_ray.notifications import Ending, tell_owner
from atgen_ray.reporting.publish import publish_report
from atgen_ray.runs.failures import explain_failure
from atgen_ray.runs.stopping import BUDGET
from atgen_ray.store.events import HANDED_OVER, Event
from atgen_ray.store.journal import open_journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.run_records import Status
from atgen_ray.store.step_outputs import name_attempt

if TYPE_CHECKING:
    from atgen_ray.runs.workers import Workers

LEASE_SECONDS = 20.0
LIVELY_RENEWALS = 2  # of a lease while another controller waits for it, after which that gives up
# How long a step may take to notice that it is to stop; `ray job stop` kills the driver after 3.
STOP_SECONDS = 2.0

# measure: a run of a suite, without a report of its own; evaluate: scores of given models alone
Goal = Literal["run", "select", "measure", "evaluate"]
Report = Callable[[str | None], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """State of a run as drivers see it: status, new events, and the step under way."""

    status: Status
    activity: dict[str, Any]
    events: list[Event]
    message: str  # why it ended; for a failure the traceback
    mistake: bool  # whether the failure is one that the user can mend
    closing: bool = False  # it was told to stop, or writes how it ended


@dataclass(frozen=True)
class Surroundings:
    """What a controller has around it.

    Attributes:
        remote: receives the progress of workers in other processes.
        die: ends the process of the controller at once.
        ended: called once the run is over and drivers may be told.
        watch: reports during a block what the workers of a step wait for.
        workers: do the work of the steps; None: those of Ray.
    """

    remote: Progress
    die: Callable[[], None]
    ended: Callable[[], None] = lambda: None
    watch: Callable[[Report], AbstractContextManager[None]] = lambda report: nullcontext()
    workers: "Workers | None" = None


class LeasedRun:
    """Runs the round loop in a thread under the run's lease."""

    def __init__(
        self, config: RunConfig, owner: ProcessIdentity, goal: Goal, surroundings: Surroundings
    ) -> None:
        """Open the journal. `owner` stays the same over restarts of one controller.

        With the goal "select" the run ends once its first batch is selected.
        """
        self._config = config
        self._owner = owner
        self._goal = goal
        self._around = surroundings
        self._journal = open_journal(config.storage, config.database_url)
        self._tracker = ProgressTracker()
        self._status: Status = "running"
        self._message = ""
        self._mistake = False
        self._lease: Lease | None = None
        self.handed = False  # the next controller goes on where this one stops
        self._closing = machine().lock()  # its holder writes how the run ended
        self._ended = machine().event()

    def start(self) -> None:
        """Acquire the run's lease and start or resume the run, in a thread."""
        machine().start(self._drive, name="controller")

    def poll(self, after: int) -> Snapshot:
        """Return the state of the run and its events with a sequence number above `after`."""
        # Read the status before the events, so that a run seen as ended has all of them.
        status = self._status
        message = self._message
        # Whoever resumes the run waits for what was told to stop.
        closing = status == "running" and (self._ended.is_set() or self._tracker.is_stopping)
        try:
            events = self._journal.events(self._config.name, after)
        except UserError:  # the database is unreachable; the run itself decides whether it can wait
            events = []
        activity = self._tracker.snapshot()
        return Snapshot(status, activity, events, message, self._mistake, closing)

    def update(self, done: int, total: int) -> None:
        """Count progress of a training worker."""
        self._tracker.update(done, total)

    def stop(self) -> None:
        """Stop the run at its next chance, or after a short wait in the middle of a step; committed
        steps are kept.
        """
        self._tracker.stop()
        machine().call_later(STOP_SECONDS, self._abandon)

    def hand_over(self) -> None:
        """Stop as `stop` does, but leave the run under way: its lease is free, and whoever takes it
        next goes on.
        """
        self.handed = True
        self.stop()

    def _drive(self) -> None:
        """Run to the end and report it to drivers, even if the journal cannot be written."""
        status: Status = "failed"
        try:
            status, message, mistake = self._hold(self._acquire())
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
        machine().start(self._renew, lease, name="lease")
        self._journal.set_status(lease, "running")
        status, message, mistake, occasion = self._run(lease)
        if not self.handed:
            self._tell(lease, occasion, message)
        with self._closing:
            self._close(lease, status, message)
        return status, message, mistake

    def _close(self, lease: Lease, status: Status, message: str) -> None:
        """Write the last entries of this controller and release the lease."""
        self._ended.set()
        if self.handed and status == "stopped":
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
                self._around.die()

    def _acquire(self) -> Lease:
        """Acquire the run's lease; wait at most as long as the lease of a dead cluster can last,
        or until the holder is seen to be alive.

        A dead holder on this machine is recognised at once, one on another machine only by its
        lease that is no longer renewed. A holder that renews it again and again is alive; one whose
        driver was killed a moment ago may still do so once.
        """
        deadline = machine().monotonic() + LEASE_SECONDS + 5
        seen = set[float | None]()
        while True:
            try:
                return self._journal.acquire(self._config.name, self._owner, LEASE_SECONDS)
            except RunBusyError as error:
                seen.add(error.expires)
                if len(seen) > LIVELY_RENEWALS or machine().monotonic() > deadline:
                    raise
                self._tracker.start_step(0, "waiting for the run's lease")
                machine().sleep(1)

    def _run(self, lease: Lease) -> tuple[Status, str, bool, Occasion]:
        """Run to the end; return status, message, whether the user can mend the error, and what its
        owner is told of.
        """
        from atgen_ray.runs.controller import Controller
        from atgen_ray.runs.workers import RAY_WORKERS

        around = self._around
        folder = RunFolder(self._config.storage, self._config.name)
        try:
            folder = folder.fenced(name_attempt(lease), lease.renew)
            controller = Controller(
                self._config,
                self._journal,
                lease,
                folder,
                self._tracker,
                around.remote,
                around.workers or RAY_WORKERS,
            )
            with closing(controller), around.watch(self._tracker.wait):
                reason = {
                    "select": controller.run_selection,
                    "evaluate": controller.measure_models,
                }.get(self._goal, controller.run)()
            if self._goal not in ("measure", "evaluate"):
                lease.renew()
                publish_report(self._config, self._journal, folder, reason)
        except RunStopped as stop:
            paused = isinstance(stop, RunPaused)
            return "stopped", str(stop), False, "paused" if paused else "stopped"
        except LeaseLostError:
            raise
        except Exception as error:  # the boundary of the process: any error goes into the journal
            step = self._tracker.snapshot()["step"]
            message, mistake = explain_failure(error, self._config.name, step, folder.root)
            return "failed", message, mistake, "failed"
        return "finished", reason, False, "budget" if reason == BUDGET else "finished"

    def _tell(self, lease: Lease, occasion: Occasion, message: str) -> None:
        """Tell the run's owner how it ended, before the journal has it: a controller that dies in
        between is followed by one that tells it.
        """
        config = self._config
        if self._goal == "measure" or config.notify is None:
            return
        spent = self._journal.total(config.name)
        reason = message.strip().splitlines()[-1]
        tell_owner(
            config,
            self._journal,
            lease,
            occasion,
            lambda page: Ending(config.name, occasion, reason, spent.labels, spent.dollars, page),
        )

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
        """Set the result that `poll` returns, and say that there is one."""
        self._ended.set()
        self._message = message
        self._mistake = mistake
        self._status = status
        self._around.ended()
