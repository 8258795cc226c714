"""Certificate of a deletion: what was removed where, and what cannot be removed from here.

It has counts, ids and digests, never the text or the name that was removed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Removed:
    """Something that was removed or redacted.

    Attributes:
        place: a file of a run, a table of the journal, a cache, or a provider.
        what: what of it, in words.
        count: how many rows, files or values.
        before: SHA-256 of the file before, where it is known.
        after: SHA-256 of the file now; None where it is gone.
    """

    place: str
    what: str
    count: int = 1
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Remaining:
    """Something that stays, or may, and what can be done about it."""

    place: str
    what: str
    why: str
    do: str = ""


@dataclass
class Certificate:
    """What a deletion did, or with `dry_run` would do. Times are seconds since 1970."""

    id: str
    kind: str
    target: dict[str, Any]
    by: str
    begun: float
    finished: float | None = None
    dry_run: bool = False
    runs: list[str] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    remains: list[Remaining] = field(default_factory=list)

    def add(self, *lines: Removed | Remaining) -> None:
        """Add lines that are not there yet; a removal of nothing is left out."""
        for line in lines:
            if isinstance(line, Removed):
                if line.count and line not in self.removed:
                    self.removed.append(line)
            elif line not in self.remains:
                self.remains.append(line)

    def as_json(self) -> dict[str, Any]:
        """Return the certificate as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Certificate":
        """Return the certificate that `as_json` described."""
        values = dict(stored)
        values["removed"] = [Removed(**line) for line in values["removed"]]
        values["remains"] = [Remaining(**line) for line in values["remains"]]
        return cls(**values)

    def lines(self) -> list[str]:
        """Return the certificate as text for people, a line each."""
        verb = "would be removed" if self.dry_run else "removed"
        what = ", ".join(f"{key} {value}" for key, value in self.target.items())
        lines = [f"deletion {self.id}: {self.kind} ({what}), by {self.by}"]
        lines.append(f"begun {_say(self.begun)}, {self._describe_end()}")
        lines.append(f"{verb}: {len(self.removed) or 'nothing'}")
        for gone in self.removed:
            digests = f" ({_short(gone.before)} -> {_short(gone.after)})" if gone.before else ""
            lines.append(f"  {gone.place}: {gone.count} {gone.what}{digests}")
        lines.append(f"remains: {len(self.remains) or 'nothing that is known'}")
        for left in self.remains:
            lines.append(f"  {left.place}: {left.what}: {left.why}")
            if left.do:
                lines.append(f"    {left.do}")
        return lines

    def _describe_end(self) -> str:
        if self.dry_run:
            return "a rehearsal: nothing was changed"
        if self.finished is None:
            return "cut short: the same command finishes it"
        return f"finished {_say(self.finished)}"


def _say(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def _short(digest: str | None) -> str:
    return f"sha256 {digest[:12]}" if digest else "gone"
