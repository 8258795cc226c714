"""Record of deletions on request: begun before anything is removed, finished once all is.

A deletion that was cut short is found again by its target, so that the same command goes on under
the same id and its certificate has what both attempts removed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import deletions


@dataclass(frozen=True)
class DeletionRecord:
    """A deletion. Times are seconds since 1970; `finished` is None for one that was cut short."""

    id: str
    kind: str
    target: dict[str, Any]
    by: str
    begun: float
    finished: float | None
    certificate: dict[str, Any]


def begin_deletion(
    journal: Journal,
    kind: str,
    target: dict[str, Any],
    by: str,
    is_same: Callable[[dict[str, Any]], bool],
) -> DeletionRecord:
    """Enter a deletion, or find the unfinished one of the same kind whose target `is_same`."""
    open_ones = sa.select(deletions).where(
        (deletions.c.kind == kind) & deletions.c.finished.is_(None)
    )
    with journal.database.writing() as connection:
        for row in connection.execute(open_ones.order_by(deletions.c.begun)).mappings():
            if is_same(row["target"]):
                return DeletionRecord(**row)
        record: dict[str, Any] = {
            "id": f"d{uuid4().hex[:12]}",
            "kind": kind,
            "target": target,
            "by": by,
            "begun": journal.database.clock(connection),
            "finished": None,
            "certificate": {},
        }
        connection.execute(sa.insert(deletions).values(record))
    return DeletionRecord(**record)


def enter_certificate(
    connection: sa.Connection, id: str, certificate: dict[str, Any], finished: float | None = None
) -> None:
    """Store what a deletion has removed so far, within a transaction."""
    here = deletions.c.id == id
    values = {"certificate": certificate, "finished": finished}
    connection.execute(sa.update(deletions).where(here).values(values))


def list_deletions(journal: Journal) -> list[DeletionRecord]:
    """Return all deletions, the oldest first."""
    query = sa.select(deletions).order_by(deletions.c.begun, deletions.c.id)
    with journal.database.reading() as connection:
        return [DeletionRecord(**row) for row in connection.execute(query).mappings()]


def find_deletion(journal: Journal, id: str) -> DeletionRecord:
    """Return one deletion. Raise UserError where there is none with that id."""
    records = list_deletions(journal)
    for record in records:
        if record.id == id:
            return record
    hint = nearest(id, [record.id for record in records]) if records else "; there are none yet"
    raise UserError(f"deletion '{id[:40]}' is unknown{hint}")
