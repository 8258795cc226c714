"""What an annotator works with in one round of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from atgen_ray.budget import Ledger, Scope
from atgen_ray.config import RunConfig
from atgen_ray.journal import Journal, Lease
from atgen_ray.records import Annotation, Progress
from atgen_ray.storage import RunFolder


@dataclass(frozen=True)
class Site:
    """One round of a run, seen by its annotator.

    Attributes:
        texts: the user turn of every example of the pool, by id.
        labeled: labels of earlier rounds, which may serve as worked examples.
        progress: hears of labels done, and raises RunStopped when the run is to stop.
    """

    config: RunConfig
    journal: Journal
    lease: Lease
    folder: RunFolder
    round: int
    texts: Mapping[str, str]
    labeled: Sequence[Annotation]
    progress: Progress

    @cached_property
    def ledger(self) -> Ledger:
        """The run's money."""
        return Ledger(self.config.name, self.config.stopping)

    def note_limit(self, limit: Scope | None, left: int) -> None:
        """Tells the journal that a budget kept `left` examples without a label."""
        if limit is not None and left:
            stopping = self.config.stopping
            dollars = stopping.dollars if limit == "run" else stopping.dollars_per_round
            payload = {"limit": limit, "dollars": dollars, "left": left}
            self.journal.append(self.lease, "budget", self.round, "annotation", payload)
