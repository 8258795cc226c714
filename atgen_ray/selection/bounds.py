"""The bound of a query batch, kept in the metadata of its table and so in its Parquet file."""

import json
from dataclasses import asdict

import pyarrow as pa

from atgen_ray.core.strict_json import encode_json
from atgen_ray.selection.kernels.bound import Bound

_KEY = b"bound"


def attach_bound(table: pa.Table, bound: Bound | None) -> pa.Table:
    """Return `table` with `bound` in its metadata."""
    if bound is None:
        return table
    kept = {**(table.schema.metadata or {}), _KEY: encode_json(asdict(bound)).encode()}
    return table.replace_schema_metadata(kept)


def read_bound(table: pa.Table) -> Bound | None:
    """Return the bound of a query batch; None where its strategy knows none."""
    kept = (table.schema.metadata or {}).get(_KEY)
    return None if kept is None else Bound(**json.loads(kept))
