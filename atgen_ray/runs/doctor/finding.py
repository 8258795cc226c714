"""What the doctor finds."""

from dataclasses import dataclass, field

SHOWN = 3  # names in one line


@dataclass(frozen=True)
class Finding:
    """Something that does not agree.

    Attributes:
        run: None for what belongs to no run of the journal.
        kind: a fixed word for programs, such as `missing-output`.
        what: in one line.
        do: what to do about it, in one line.
        repairable: whether `repair` mends it.
        paths: of files in the run's folder, if it is about files.
    """

    run: str | None
    kind: str
    what: str
    do: str
    repairable: bool = False
    paths: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """The findings on some runs, and what was looked at."""

    findings: list[Finding] = field(default_factory=list)
    runs: int = 0
    files: int = 0
    bytes_read: int = 0  # of files whose digests were computed
    not_verifiable: int = 0  # files whose digest no event has

    def add(self, *found: Finding) -> None:
        self.findings += found


def name_some(names: list[str]) -> str:
    """Return the first few of `names`, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
