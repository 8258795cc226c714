"""Steps that take what was added to the pool: the rows that wait in the inbox become its last
examples, and are embedded.

The tables of the pool are written anew, aside, and take the place of the old ones as the outputs of
any step do. What a round has begun with stays: rows come in before the first step of a round.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.errors import OutputMissingError
from atgen_ray.core.records import CONTEXT_SCHEMA, GOLD_SCHEMA, POOL_SCHEMA, Progress
from atgen_ray.data.added_rows import count_marked, drop, mark_near
from atgen_ray.ray_runtime.hardware import fit_cpus
from atgen_ray.ray_runtime.workers import SMALL_POOL, run_apart
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.steps.pool import PoolSteps
from atgen_ray.store.additions import (
    BEFORE,
    GROWN,
    GROWTH,
    PART,
    PART_SCHEMA,
    PARTS,
    list_growths,
    list_waiting,
)
from atgen_ray.store.events import Event
from atgen_ray.store.run_folder import RunFolder

POOL = "pool.parquet"
GOLD = "gold.parquet"
CONTEXT = "context.parquet"
TEST = "test.parquet"


class GrowthSteps:
    """Growths of the pool of one run."""

    def __init__(self, run: RunContext, pool: PoolSteps) -> None:
        self._run = run
        self._pool = pool
        self._tell_state()

    def take(self, round: int, notes: Sequence[Event]) -> None:
        """Take what waits by `notes` (`RunState.read_notes`) into the pool, unless `round` has
        begun: then the next one takes it.
        """
        if any(self._run.committer.has(round, step) for step in ("generation", "selection")):
            return
        # A step that an earlier controller made, and could not commit, has what waited then.
        while waiting := list_waiting(notes, self._growths()):
            self._grow(round, [str(event.payload[PART]) for event in waiting])
        self.embed()

    def embed(self) -> None:
        """Embed what the pool has taken, as far as a dead controller has not; see
        `PoolSteps.embed`.
        """
        if not self._run.config.embeds:
            return
        for event in self._growths():
            number = str(event.step).removeprefix(GROWTH)
            self._pool.embed_new(event.round or 0, f"{GROWN}{number}")

    def _grow(self, round: int, parts: Sequence[str]) -> None:
        run = self._run
        number = len(self._growths()) + 1

        def make(progress: Progress, out: RunFolder) -> dict[str, Any]:
            rows = run.folder.count_rows(POOL)
            progress(0, rows)
            new, known = read_parts(run.folder, parts, run.state.deleted)
            duplicates = run.config.data.duplicates
            if len(new) and duplicates.action != "off":
                template = run.config.prompt.template
                arguments = (run.folder, template, duplicates.threshold, new)
                if rows <= SMALL_POOL:
                    new = mark_new(*arguments)
                else:
                    cpus = fit_cpus(1, 1.0)
                    new = run_apart(mark_new, arguments, cpus, lambda: progress(0, rows))
            append_rows(run.folder, out, new)
            progress(rows + len(new), rows + len(new))
            counts = {"added": len(new), "near_duplicates": count_marked(new), "known": known}
            return {PARTS: [*parts], BEFORE: rows, **counts}

        run.committer.commit(round, f"{GROWTH}{number}", POOL, make)
        self._tell_state()
        run.lease.renew()
        for part in self._growths()[-1].payload[PARTS]:
            run.folder.remove(part)

    def _growths(self) -> list[Event]:
        return list_growths(self._run.committer.list_steps())

    def _tell_state(self) -> None:
        grown = [(event.round or 0, int(event.payload[BEFORE])) for event in self._growths()]
        self._run.state.grown = grown


def read_parts(folder: RunFolder, parts: Sequence[str], deleted: set[str]) -> tuple[pa.Table, int]:
    """Return the rows of parts of the inbox that the pool does not have, PART_SCHEMA, and how many
    others they have: those came by another part meanwhile, or were deleted.

    Raises:
        OutputMissingError: a part is gone.
    """
    missing = [folder.path(part) for part in parts if not folder.exists(part)]
    if missing:
        raise OutputMissingError(
            f"{missing[0]} is missing, although the journal of run '{folder.name}' says that its "
            f"rows wait for the pool: bring it back from a backup"
        )
    # The parts come one after another, and each may have rows of those before it.
    new = PART_SCHEMA.empty_table()
    read = 0
    for part in parts:
        rows = folder.read_table(part)
        read += len(rows)
        new = pa.concat_tables([new, drop(rows, [new.select(["id", "content"])])])
    new = drop(new, scan_known(folder, deleted))
    if folder.exists(TEST):
        new = drop(new, folder.scan_table(TEST, ["content"]))
    return new, read - len(new)


def scan_known(folder: RunFolder, deleted: set[str]) -> Iterator[pa.Table]:
    """Yield what a run has already: ids and contents of its pool, and the ids of the examples that
    were deleted.
    """
    yield pa.table({"id": pa.array(sorted(deleted), pa.string())})
    yield from folder.scan_table(POOL, ["id", "content"])


def mark_new(folder: RunFolder, template: str, threshold: float, new: pa.Table) -> pa.Table:
    """Return `new` rows with their near-duplicates in the run's pool marked; see `mark_near`."""
    columns = ["id", "text", "content", "duplicate_of"]
    return mark_near(template, threshold, folder.scan_table(POOL, columns), new)


def append_rows(folder: RunFolder, out: RunFolder, new: pa.Table) -> None:
    """Write the tables of the pool with the `new` rows at their end to `out`."""
    answered = new.filter(pc.greater(pc.list_value_length(new["references"]), 0))
    beside = new.filter(pc.or_(pc.is_valid(new["context"]), pc.is_valid(new["fields"])))
    for rel, rows, schema in (
        (POOL, new, POOL_SCHEMA),
        (GOLD, answered, GOLD_SCHEMA),
        (CONTEXT, beside, CONTEXT_SCHEMA),
    ):
        if not folder.exists(rel):
            continue
        with out.table_writer(rel, schema) as add:
            for part in folder.scan_table(rel):
                add(part.select(schema.names).cast(schema))
            add(rows.select(schema.names).cast(schema))
