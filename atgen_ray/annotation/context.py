"""What an annotator works with in one round of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from atgen_ray.config import RunConfig
from atgen_ray.core.records import Annotation, DeadLetter, Progress
from atgen_ray.store.journal import Journal, Lease
from atgen_ray.store.ledger import Ledger, Scope, format_dollars
from atgen_ray.store.run_folder import RunFolder


@dataclass(frozen=True)
class Shortfall:
    """A budget that kept examples without a label, and the most that the first of them can cost, in
    billionths.
    """

    limit: Scope
    worst: int


@dataclass(frozen=True)
class AnnotationContext:
    """One round of a run, seen by its annotator.

    Attributes:
        texts: the user turn of every example of the pool, by id.
        labeled: labels of earlier rounds, which may serve as worked examples.
        progress: hears of labels done, and raises RunStopped when the run is to stop.
        shortfalls: budgets that were met, in the order in which they were.
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

    @cached_property
    def ledger(self) -> Ledger:
        """The run's money."""
        return Ledger(self.config.name, self.config.stopping)

    def note_limit(self, limit: Scope | None, left: int, worst: int) -> None:
        """Tells the journal that a budget kept `left` examples without a label.

        The first of them can cost `worst` billionths of a dollar.
        """
        if limit is not None and left:
            self.shortfalls.append(Shortfall(limit, worst))
            payload = {"limit": limit, "dollars": self._budget(limit), "left": left}
            self.journal.append(self.lease, "budget", self.round, "annotation", payload)

    def describe_shortfall(self, shortfall: Shortfall) -> str:
        """The budget, what of it is spent, and what the next label can cost, as one line."""
        with self.journal.database.reading() as connection:
            used = self.ledger.used(connection, shortfall.limit, self.round)
        key = "stopping.dollars" if shortfall.limit == "run" else "stopping.dollars_per_round"
        return (
            f"{key} is {self._budget(shortfall.limit)}, expected at least "
            f"{format_dollars(used + shortfall.worst)}: "
            f"{format_dollars(used)} is spent, and the next label can cost "
            f"{format_dollars(shortfall.worst)}"
        )

    def _budget(self, limit: Scope) -> float | None:
        stopping = self.config.stopping
        return stopping.dollars if limit == "run" else stopping.dollars_per_round


class Annotator(Protocol):
    """Labels examples. A label that was returned once is never asked for again: the journal keeps
    it.
    """

    name: str

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        """A label for each example, in any order, or the reason why it has none.

        An example with neither was left out because a budget was met; the journal has an event that
        says so.

        Raises:
            RunStopped: the run is to stop, or to pause; everything that was paid for is in the
                journal.
        """
        ...
