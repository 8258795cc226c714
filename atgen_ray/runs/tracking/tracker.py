"""What every tracker is told, and what it must be able to do."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Ending = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class RoundRecord:
    """What trackers are told of a round.

    Attributes:
        labels: so far; the axis of the learning curve.
        metrics: by name, with `/` between its parts, as test/rougeL.
        losses: of the optimiser steps of the round.
        steps: optimiser steps of all rounds before it.
        adapter: its folder; None for a round without one, or with a full model.
    """

    round: int
    labels: int
    metrics: dict[str, float]
    losses: list[float]
    steps: int
    adapter: Path | None


class Tracker(Protocol):
    """One tracker; any method may raise whatever its client raises."""

    def open(self, id: str) -> None:
        """Begin the run with this id there, or continue it."""

    def log_round(self, record: RoundRecord) -> None:
        """Enter a round, except what is there already."""

    def close(self, ending: Ending) -> None:
        """Say how this attempt of the run ended."""


def set_defaults(defaults: Mapping[str, str]) -> None:
    """Set variables that the environment does not have."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
