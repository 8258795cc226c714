"""What notifications say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NewTasks:
    """New tasks of a run: how many, in which round, and the page to label them on."""

    run: str
    round: int
    tasks: int
    page: str | None

    @property
    def type(self) -> str:
        """Return the name of the event."""
        return "tasks.new"

    @property
    def text(self) -> str:
        """Return the notification as one line."""
        return f"Run {self.run}, round {self.round}: {self.tasks} new tasks{_at(self.page)}"


@dataclass(frozen=True)
class Ending:
    """The end of a run, or a pause that somebody has to end.

    `occasion` is as in `notify.events`; labels and dollars are those of the run by then.
    """

    run: str
    occasion: str
    reason: str
    labels: int
    dollars: float
    page: str | None

    @property
    def type(self) -> str:
        """Return the name of the event."""
        return f"run.{self.occasion}"

    @property
    def text(self) -> str:
        """Return the notification as one line."""
        verb = "ended" if self.occasion in ("finished", "budget") else self.occasion
        noun = "label" if self.labels == 1 else "labels"
        spent = f"{self.labels} {noun}, {self.dollars:.2f} dollars"
        return f"Run {self.run} {verb}: {self.reason} ({spent}){_at(self.page)}"


@dataclass(frozen=True)
class Stall:
    """Tasks of a round that nobody has answered for `hours`."""

    run: str
    round: int
    tasks: int
    hours: float
    page: str | None

    @property
    def type(self) -> str:
        """Return the name of the event."""
        return "run.stalled"

    @property
    def text(self) -> str:
        """Return the notification as one line."""
        return (
            f"Run {self.run}, round {self.round}: no answer for {self.hours:g} hours, "
            f"{self.tasks} tasks are open{_at(self.page)}"
        )


def _at(page: str | None) -> str:
    return f" at {page}" if page else ""
