"""Parquet files of a run's folder: written and read in groups of `GROUP_ROWS` rows, so that a file
as long as the pool is never in memory as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 1 << 14  # rows of a row group


@contextmanager
def write_groups(sink: IO[bytes], schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that adds rows of `schema` to `sink`.

    At most about `GROUP_ROWS` rows and one more table are held in memory.
    """
    waiting = [schema.empty_table()]
    with pq.ParquetWriter(sink, schema, compression="zstd") as file:

        def add(table: pa.Table, least: int = GROUP_ROWS) -> None:
            waiting.append(table)
            if sum(map(len, waiting)) >= least:
                file.write_table(pa.concat_tables(waiting), row_group_size=GROUP_ROWS)
                waiting.clear()

        yield add
        if waiting:
            add(waiting.pop(), 0)


def scan_groups(file: pq.ParquetFile, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """Yield the rows in pieces of at most `GROUP_ROWS`, in order."""
    for batch in file.iter_batches(GROUP_ROWS, columns=_name(columns)):
        yield pa.Table.from_batches([batch])


def read_range(
    file: pq.ParquetFile, first: str, last: str, columns: Sequence[str] | None
) -> pa.Table:
    """Return the rows of a file, sorted by `id`, from `first` to `last`, and others near them:
    whole row groups.
    """
    at = file.schema_arrow.names.index("id")  # the columns before it are not nested
    groups = []
    for group in range(file.num_row_groups):
        ids = file.metadata.row_group(group).column(at).statistics
        if ids is None or (ids.min <= last and ids.max >= first):
            groups.append(group)
    return file.read_row_groups(groups, _name(columns))


def read_all(file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    """Return all rows."""
    return file.read(columns=_name(columns))


def _name(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else [*columns]
