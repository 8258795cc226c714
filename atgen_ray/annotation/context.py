"""Annotator protocol, and the context of one round that every annotator works in."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.records import Annotation, DeadLetter, Progress
from atgen_ray.store.events import WARNING
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import PROVIDER_STATE
from atgen_ray.store.leases import Lease
from atgen_ray.store.ledger import Ledger, Scope, format_dollars
from atgen_ray.store.run_folder import RunFolder


@dataclass(frozen=True)
class Shortfall:
    """A budget that left examples without a label, and the highest possible cost of the first of
    them in billionths of a dollar.
    """

    limit: Scope
    worst: int


@dataclass(frozen=True)
class AnnotationContext:
    """Everything that an annotator may use of a run in one round.

    Attributes:
        texts: user turns of the examples in `labeled`, by id.
        labeled: labels of earlier rounds, which may serve as worked examples.
        progress: called with the number of labels done and of all; raises RunStopped when the run
            is to stop.
        shortfalls: budgets that ran out, in the order in which they did.
        wait_outside: called with what a provider lets the run wait for, and with None once it goes
            on.
    """

    config: RunConfig
    journal: Journal
    lease: Lease
    folder: RunFolder
    round: int
    texts: Mapping[str, str]
    labeled: Sequence[Annotation]
    progress: Progress
    shortfalls: list[Shortfall] = field(default_factory=list)
    wait_outside: Callable[[str | None], None] = lambda waiting: None

    @cached_property
    def ledger(self) -> Ledger:
        """Return the ledger of the run's budgets."""
        return Ledger(self.config.name, self.config.stopping)

    def record_shortfall(self, limit: Scope | None, left: int, worst: int) -> None:
        """Record in the journal that the budget `limit` left `left` examples without a label.

        The first of them can cost `worst` billionths of a dollar. Without a limit nothing is
        recorded.
        """
        if limit is not None and left:
            self.shortfalls.append(Shortfall(limit, worst))
            payload = {"limit": limit, "dollars": self._budget(limit), "left": left}
            self.journal.append(self.lease, "budget", self.round, "annotation", payload)

    def describe_shortfall(self, shortfall: Shortfall) -> str:
        """Return one line with the budget, what of it is spent, and what the next label can
        cost.
        """
        with self.journal.database.reading() as connection:
            used = self.ledger.used(connection, shortfall.limit, self.round)
        key = "stopping.dollars" if shortfall.limit == "run" else "stopping.dollars_per_round"
        return (
            f"{key} is {self._budget(shortfall.limit)}, expected at least "
            f"{format_dollars(used + shortfall.worst)}: "
            f"{format_dollars(used)} is spent, and the next label can cost "
            f"{format_dollars(shortfall.worst)}"
        )

    def warn(self, text: str) -> None:
        """Record in the journal, once a round, what the user should know and what ends nothing."""
        warned = self.journal.events(self.lease.run, kind=WARNING)
        if all((event.round, event.payload[WARNING]) != (self.round, text) for event in warned):
            self.journal.append(self.lease, WARNING, self.round, "annotation", {WARNING: text})

    def report(self, state: dict[str, Any]) -> None:
        """Keep what a provider is doing now in the run's folder, for those who look at the run.

        A storage that cannot be written to ends nothing here: it is told where work is written.
        """
        with suppress(UserError, OSError):
            self.folder.write_json(PROVIDER_STATE, state | {"time": machine().time()})
        self.wait_outside(_describe_wait(state))

    def _budget(self, limit: Scope) -> float | None:
        stopping = self.config.stopping
        return stopping.dollars if limit == "run" else stopping.dollars_per_round


def _describe_wait(state: dict[str, Any]) -> str | None:
    """Return what a provider lets the run wait for, None where it does not."""
    parts = []
    if state["waiting_until"]:
        until = datetime.fromtimestamp(state["waiting_until"], UTC)
        parts.append(f"no call before {until:%H:%M:%S} UTC")
    if state["queue_full"]:
        parts.append("its queue is full")
    if state["failing"]:
        parts.append(state["last_error"])
    return f"{state['provider']}: {', '.join(parts)}" if parts else None


@dataclass(frozen=True)
class SuspectLetter(DeadLetter):
    """An example that seems to have commanded its label `text`. A router may pass it to people."""

    text: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)


def is_confirmed(label: Annotation) -> bool:
    """Return whether a label may be shown to a model as a worked example: its example passed a
    probe, or people or the data set gave the label, and the example never was suspect.
    """
    told: Mapping[str, Any] | None = label.provenance
    probed = False
    while told:
        if told.get("suspect") or told.get("doubt"):
            return False
        probed |= told.get("probe") == "passed"
        told = told.get("first")
    known = label.annotator == "dataset" or label.annotator.startswith("human/")
    return probed or known


class Annotator(Protocol):
    """Labels examples. The journal keeps every label, so none is requested twice."""

    name: str

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        """Return a label for each example, in any order, or the reason why it has none.

        An example with neither was left out because a budget ran out; the journal has an event
        that says so.

        Raises:
            RunStopped: the run is to stop, or to pause; everything that was paid for is in the
                journal.
        """
        ...
