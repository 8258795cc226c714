"""Commits of steps: outputs are made aside, recorded in the journal under the lease, then named.

A recorded step is not repeated, and what the journal does not name does not exist. Hence a run may
die at any point, a new controller continues from the journal, and one that has lost its lease
changes nothing.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import RunConfig
from atgen_ray.core.machine import machine
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import DeadLetter, Progress
from atgen_ray.engines.choice import ENGINE
from atgen_ray.store.events import STEP, WARNING, Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import StepOutputs

# Makes the outputs of a step in the folder that it is given; may return more for the event.
Make = Callable[[Progress, RunFolder], dict[str, Any] | None]


class Committer:
    """Commits the steps of one run, and writes what else its controller has to say."""

    def __init__(
        self,
        config: RunConfig,
        journal: Journal,
        lease: Lease,
        folder: RunFolder,
        tracker: ProgressTracker,
    ) -> None:
        self._config = config
        self._journal = journal
        self._lease = lease
        self._tracker = tracker
        self._committed = journal.committed_steps(config.name)
        self._reused = 0.0  # seconds that shared rows of other runs saved in the step under way
        self.outputs = StepOutputs(folder, lease)

    def recover(self) -> Event | None:
        """Finish what an earlier controller committed and could not publish; return the event of
        the last step, None before the first.
        """
        self.outputs.recover(self._committed.values())
        return self._last_step()

    def has(self, round: int, step: str) -> bool:
        """Return whether the journal has the step."""
        return (round, step) in self._committed

    def list_steps(self) -> list[Event]:
        """Return the events of the steps that the journal has."""
        return [*self._committed.values()]

    def reread(self) -> None:
        """Read again which steps the journal has, after something else wrote there."""
        self._committed = self._journal.committed_steps(self._config.name)

    def commit(
        self, round: int, step: str, output: str | None, make: Make, work: str | None = None
    ) -> bool:
        """Do a step unless the journal has it: make its outputs aside, record them, give them their
        names, and remove the unfinished `work` of the step. Return whether it was done now.
        """
        if (event := self._committed.get((round, step))) is not None:
            if work is not None and event is self._last_step():
                # Whoever committed it may have died before it removed its work.
                self.outputs.remove_work(work)
            return False
        self._tracker.start_step(round, step)
        self._reused = 0.0
        started = machine().monotonic()
        basis = self._describe_basis()
        sealed = self.outputs.find(round, step, basis)
        if sealed is None:
            out = self.outputs.open(round, step)
            more = make(self._tracker, out)
            payload = {
                "output": output,
                "rows": self._tracker.snapshot()["total"],
                "reused_seconds": self._reused,
                **(more or {}),
            }
            seconds = machine().monotonic() - started
            sealed = self.outputs.seal(round, step, out, basis, payload, seconds)
        event = self._journal.append(self._lease, STEP, round, step, sealed.payload, sealed.seconds)
        self._committed[round, step] = event
        self.outputs.publish([event])
        if work is not None:
            # A controller that died may have made the step, and have left its work.
            self.outputs.remove_work(work)
        return True

    def warn(self, warning: str, step: str | None = None) -> None:
        """Record a warning, once in a run."""
        warned = [
            event.payload[WARNING]
            for event in self._journal.events(self._config.name)
            if event.kind == WARNING
        ]
        if warning not in warned:
            self._journal.append(self._lease, WARNING, 0, step, {WARNING: warning})

    def record_failures(self, round: int, step: str, features: pa.Table) -> None:
        """Record the examples that the engine could not answer."""
        failed = features.filter(pc.is_valid(features["error"])).select(["id", "error"]).to_pylist()
        self._journal.record_dead_letters(
            self._lease, round, [DeadLetter(row["id"], step, row["error"]) for row in failed]
        )

    def add_reused_seconds(self, seconds: float) -> None:
        """Count what the step under way took from other runs."""
        self._reused += seconds

    def record_engine(self, choice: dict[str, Any]) -> None:
        """Enter which engine works, where and why, unless the last attempt took the same."""
        before = self._journal.events(self._config.name, kind=ENGINE)
        if not before or before[-1].payload != choice:
            self._journal.append(self._lease, ENGINE, payload=choice)

    def _last_step(self) -> Event | None:
        """Return the event of the step that was committed last."""
        return max(self._committed.values(), key=lambda event: event.sequence, default=None)

    def _describe_basis(self) -> str:
        """Return what the next step is made from: the settings, and the last step in the journal.
        An older journal that was brought back has another last step, even of the same name.
        """
        last = self._last_step()
        stands = f"{last.sequence} {last.time!r}" if last else "nothing"
        return f"{self._journal.run(self._config.name).digest} {stands}"
