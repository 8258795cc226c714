"""Fine-tuning jobs of the OpenAI-compatible API. A job is a run; here is what the run does not
know: who asked for it, in which words, and why it was halted.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import tuning_jobs


@dataclass(frozen=True)
class TuningJob:
    """A job; `tree` is the run's configuration, `asked` the body of the request, `price` what a
    million tokens of its training cost in dollars.
    """

    id: str
    by: str
    key: str | None
    run: str
    asked: dict[str, Any]
    tree: dict[str, Any]
    created: float
    halt: str | None
    price: float | None = None


class TuningJobs:
    """The jobs of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def enter(
        self,
        id: str,
        by: str,
        key: str | None,
        run: str,
        asked: dict[str, Any],
        tree: dict[str, Any],
        price: float | None = None,
    ) -> TuningJob:
        """Enter a job, or return the one that was entered with this key."""
        database = self._journal.database
        with database.writing() as connection:
            if key is not None and (known := self._by_key(connection, by, key)) is not None:
                return known
            now = database.clock(connection)
            job = TuningJob(id, by, key, run, asked, tree, now, None, price)
            connection.execute(sa.insert(tuning_jobs).values(vars(job)))
        return job

    def find_by_key(self, by: str, key: str) -> TuningJob | None:
        """Return the job that `by` asked for with an Idempotency-Key, or None."""
        with self._journal.database.reading() as connection:
            return self._by_key(connection, by, key)

    def find(self, id: str, by: str | None) -> TuningJob | None:
        """Return a job of `by` (None: of anybody), or None."""
        query = sa.select(tuning_jobs).where(tuning_jobs.c.id == id)
        if by is not None:
            query = query.where(tuning_jobs.c.by == by)
        with self._journal.database.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return TuningJob(**row) if row is not None else None

    def list(self, by: str | None) -> list[TuningJob]:
        """Return the jobs of `by` (None: of all), the newest first."""
        query = sa.select(tuning_jobs).order_by(
            tuning_jobs.c.created.desc(), tuning_jobs.c.id.desc()
        )
        if by is not None:
            query = query.where(tuning_jobs.c.by == by)
        with self._journal.database.reading() as connection:
            return [TuningJob(**row) for row in connection.execute(query).mappings()]

    def halt(self, id: str, why: str | None) -> None:
        """Note why the job's run is asked to stop; None: it goes on."""
        with self._journal.database.writing() as connection:
            here = tuning_jobs.c.id == id
            connection.execute(sa.update(tuning_jobs).where(here).values(halt=why))

    def remove(self, id: str) -> None:
        """Remove a job whose run never began."""
        with self._journal.database.writing() as connection:
            connection.execute(sa.delete(tuning_jobs).where(tuning_jobs.c.id == id))

    @staticmethod
    def _by_key(connection: sa.Connection, by: str, key: str) -> TuningJob | None:
        query = sa.select(tuning_jobs).where((tuning_jobs.c.by == by) & (tuning_jobs.c.key == key))
        row = connection.execute(query).mappings().one_or_none()
        return TuningJob(**row) if row is not None else None
