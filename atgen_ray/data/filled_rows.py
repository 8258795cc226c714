"""Rows of a source with their templates filled, in blocks that can be gone through several times.

With Ray the blocks lie in the object store, which moves them to disk where memory is short: a
process that goes through them holds one at a time.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atgen_ray.core.arrays import Integers
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import Progress
from atgen_ray.data.duplicates import Signatures, find_duplicates, read_signatures
from atgen_ray.data.in_process import Blocks
from atgen_ray.data.rows import FILLED_SCHEMA, RowPlan, fill_rows
from atgen_ray.ray_runtime.hardware import fit_cpus, share_cpus
from atgen_ray.ray_runtime.workers import SMALL_POOL, run_apart

if TYPE_CHECKING:
    from atgen_ray.data.sources import Source

Mask = npt.NDArray[np.bool_]
PIECE = 1 << 14


@dataclass(frozen=True)
class FilledRows:
    """Blocks of FILLED_SCHEMA in the order of the source: tables, or references to them in Ray's
    object store. Iteration yields them in pieces of at most `PIECE` rows.
    """

    blocks: Sequence[Any]
    in_store: bool

    def __iter__(self) -> Iterator[pa.Table]:
        for block in self.blocks:
            if self.in_store:
                import ray

                block = ray.get(block)
            for start in range(0, len(block), PIECE):  # an empty one may have no columns
                yield block.slice(start, PIECE).cast(FILLED_SCHEMA)


def fill_source(
    source: "Source", plan: RowPlan, named: str, progress: Progress | None
) -> FilledRows:
    """Fill every row of `source`; `progress` is called with the rows so far, as both numbers.

    Raises:
        UserError: a file cannot be read; the line begins with `named`.
    """
    try:
        if isinstance(source.dataset, Blocks):
            return FilledRows(
                [_fill_block(block, source.decode, plan) for block in source.dataset], False
            )
        return _fill_with_ray(source, plan, progress)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{named}, which cannot be read: {_find_reason(error)}") from error


def mark_duplicates(
    rows: FilledRows, kept: Mask, threshold: float, progress: Progress | None
) -> tuple[Integers, Integers]:
    """Return those of the `kept` rows (n,) that are near-duplicates, and their originals, as
    positions among all rows; see `find_duplicates`.

    Many are compared by a worker, whose memory is its own.
    """
    if not rows.in_store or len(kept) <= SMALL_POOL:
        return _mark(rows, kept, threshold)

    def check() -> None:
        if progress is not None:
            progress(len(kept), len(kept))

    return run_apart(_mark, (rows, kept, threshold), fit_cpus(1, 1.0), check)


def _mark(rows: FilledRows, kept: Mask, threshold: float) -> tuple[Integers, Integers]:
    duplicates, originals = find_duplicates(_KeptSignatures(rows, kept), threshold)
    positions = np.flatnonzero(kept)
    return positions[duplicates], positions[originals]


@dataclass(frozen=True)
class _KeptSignatures:
    """The signatures of the `kept` rows, block by block."""

    rows: FilledRows
    kept: Mask

    def __iter__(self) -> Iterator[Signatures]:
        begin = 0
        for block in self.rows:
            kept = self.kept[begin : begin + len(block)]
            begin += len(block)
            column = block["signature"].filter(pa.array(kept)).combine_chunks()
            # All are of one length and none is null, so that their bytes are a table.
            offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][
                : len(column) + 1
            ]
            data = column.buffers()[2] or pa.py_buffer(b"")
            first, last = offsets[[0, -1]].tolist()
            yield read_signatures(data.slice(first, last - first))


def _fill_with_ray(source: "Source", plan: RowPlan, progress: Progress | None) -> FilledRows:
    # Every dataset has its own context: other users of Ray Data in this process are not affected.
    context = source.dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    filled = source.dataset.map_batches(
        _fill_block,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"decode": source.decode, "plan": plan},
        **share_cpus(),
    )
    blocks: list[Any] = []
    done = 0
    # Ray Data logs the error of a reader with its traceback; the caller tells it in one line.
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        for bundle in filled.iter_internal_ref_bundles():
            blocks += bundle.block_refs
            done += bundle.num_rows() or 0
            if progress is not None:
                progress(done, done)
    finally:
        logger.setLevel(level)
    return FilledRows(blocks, True)


def _fill_block(block: pa.Table, decode: Any, plan: RowPlan) -> pa.Table:
    return fill_rows(decode(block), plan)


def _find_reason(error: BaseException) -> str:
    """Return the first line of a worker's error, without its traceback."""
    cause = getattr(error, "cause", error)
    return next(iter(str(cause).splitlines()), type(cause).__name__)
