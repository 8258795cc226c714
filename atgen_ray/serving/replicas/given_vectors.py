"""Vectors that a data set brings along, in place of those of the service's encoder."""

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.errors import nearest
from atgen_ray.serving.errors import ApiError

if TYPE_CHECKING:
    import numpy as np

    from atgen_ray.core.arrays import Numbers

KEY = "dataset.embedding"
PART_ROWS = 8192


def read_vectors(path: str, column: str, rows: "np.ndarray") -> "Numbers":
    """Return the vectors of the source `rows` (n,) of a Parquet file, L2-normalised, float32 (n,
    d). A part of the file is held at a time.

    Raises:
        ApiError: the file is no Parquet, or the column is no column of vectors.
    """
    import fsspec
    import numpy as np
    from pyarrow.parquet import ParquetFile

    try:
        with fsspec.open(path, "rb") as opened, ParquetFile(opened) as file:
            _check_column(file.schema_arrow, column)
            found: np.ndarray | None = None
            order = np.argsort(rows, kind="stable")
            wanted = rows[order]
            start = 0
            for batch in file.iter_batches(PART_ROWS, columns=[column]):
                first, last = np.searchsorted(wanted, (start, start + len(batch)))
                if first < last:
                    part = _to_matrix(batch.column(0).take(pa.array(wanted[first:last] - start)))
                    if found is None:
                        found = np.empty((len(rows), part.shape[1]), np.float32)
                    if part.shape[1] != found.shape[1]:
                        raise ApiError(
                            400,
                            f"{KEY} is {column!r}, with vectors of {found.shape[1]} and of "
                            f"{part.shape[1]} numbers, expected one length",
                        )
                    found[order[first:last]] = part
                start += len(batch)
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())[:200]
        raise ApiError(
            400, f"{KEY} is {column!r}, which is read from one Parquet file: {reason}"
        ) from None
    return np.empty((0, 0), np.float32) if found is None else found


def _check_column(schema: pa.Schema, column: str) -> None:
    if column not in schema.names:
        raise ApiError(
            400,
            f"{KEY} is {column[:80]!r}, which the file does not have"
            f"{nearest(column, schema.names)}",
        )
    kind = schema.field(column).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)) or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise ApiError(
            400, f"{KEY} is {column[:80]!r}, whose type is {kind}, expected lists of numbers"
        )


def _to_matrix(vectors: pa.Array) -> "Numbers":
    """Return lists of one length as rows of length 1; one that is missing is NaN.

    Raises:
        ApiError: they have several lengths.
    """
    import numpy as np

    lengths = pc.unique(pc.list_value_length(vectors).drop_null()).to_pylist()
    if len(lengths) > 1:
        raise ApiError(
            400, f"{KEY}: vectors of {lengths[0]} and of {lengths[1]} numbers, expected one length"
        )
    width = lengths[0] if lengths else 0
    there = np.asarray(pc.is_valid(vectors))
    matrix = np.full((len(vectors), width), np.nan, np.float32)
    values = pc.list_flatten(vectors.drop_null()).to_numpy(zero_copy_only=False)
    matrix[there] = values.astype(np.float32).reshape(-1, width) if width else 0
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms == 0, 1, norms)
