"""Exports: what was written outside the storage, or sent to somebody, where no deletion reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import exports

REPORT = "pages of a report"  # what is exported, beside labels and answers


@dataclass(frozen=True)
class Export:
    """A copy of a part of a run. `place` is the file that was written, None where it was sent to
    whoever asked; `time` is in seconds since 1970.
    """

    run: str
    what: str
    format: str
    rows: int
    by: str
    place: str | None
    time: float


def note_export(
    journal: Journal,
    run: str,
    what: str,
    format: str,
    rows: int,
    by: str,
    place: str | None = None,
) -> None:
    """Enter that a copy of a part of the run leaves the house."""
    with journal.database.writing() as connection:
        entry = {"run": run, "what": what, "format": format, "rows": rows, "by": by}
        entry |= {"place": place, "time": journal.database.clock(connection)}
        connection.execute(sa.insert(exports).values(entry))


def list_exports(journal: Journal, runs: Sequence[str]) -> list[Export]:
    """Return the exports of `runs`, the oldest first."""
    names = ("run", "what", "format", "rows", "by", "place", "time")
    query = sa.select(*(exports.c[name] for name in names)).order_by(exports.c.id)
    with journal.database.reading() as connection:
        return [Export(*row) for row in connection.execute(query) if row.run in runs]
