"""The features table as strategies read it: the rows of some candidates at a time."""

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc


class Features(Protocol):
    """A features table (FEATURES_SCHEMA, perhaps with a column `state`) that need not be in
    memory. Workers may be given it.
    """

    @property
    def names(self) -> Sequence[str]:
        """Return the columns that there are."""
        ...

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return these columns of all rows."""
        ...

    def take(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of `ids`, sorted, in that order; `columns`, by default all.

        Raises:
            ValueError: an example has no row.
        """
        ...


class FeatureTable:
    """Features in memory, in any order. The constructor raises ValueError where an example comes
    twice.
    """

    def __init__(self, table: pa.Table) -> None:
        if pc.count_distinct(table["id"]).as_py() != len(table):
            raise ValueError("the features table holds an example twice")
        self._table = table

    @property
    def names(self) -> Sequence[str]:
        return list(self._table.column_names)

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self._table.select(columns)

    def take(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        names = self.names if columns is None else columns
        return align(self._table.select(dict.fromkeys(["id", *names])), ids).select(names)


def align(table: pa.Table, ids: Sequence[str], name: str = "features") -> pa.Table:
    """Return the rows of `ids` in that order; raise ValueError where the table called `name` lacks
    one.
    """
    rows = pc.index_in(pa.array(ids, pa.string()), table["id"].combine_chunks())
    if rows.null_count:
        missing = ids[rows.is_null().index(True).as_py()]
        raise ValueError(
            f"{rows.null_count} examples have no row in the {name} table, the first is '{missing}'"
        )
    return table.take(rows)
