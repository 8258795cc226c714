"""Files with labels, read as rows by their ending."""

import csv
import json
from pathlib import Path
from typing import Any

from atgen_ray.core.errors import UserError
from atgen_ray.data.csv_layout import HEAD, tell_delimiter
from atgen_ray.data.json_layout import parse_values, unwrap
from atgen_ray.data.size_limits import LONGEST


def read_rows(file: Path, called: str) -> list[Any]:
    """Return the rows of a file by its ending.

    Raises:
        UserError: another ending, or a file that cannot be read; `called` is how the message
            begins.
    """
    import pyarrow as pa

    readers = {
        ".jsonl": _read_lines,
        ".json": _read_json,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
    }
    if file.suffix not in readers:
        raise UserError(
            f"{called}, expected one that ends in .jsonl, .json, .csv, .tsv or .parquet"
        )
    try:
        return readers[file.suffix](file)
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise UserError(
            f"{called}, which cannot be read: {' '.join(str(error).split())[:200]}"
        ) from None


def _read_lines(file: Path) -> list[Any]:
    return [
        json.loads(line)
        for line in file.read_text(encoding="utf-8-sig").split("\n")
        if line.strip()
    ]


def _read_json(file: Path) -> list[Any]:
    values = parse_values(file.read_text(encoding="utf-8-sig").encode())
    if values is None:
        raise ValueError("it is not JSON, expected an array of objects, or an object on every line")
    return unwrap(values)


def _read_csv(file: Path) -> list[Any]:
    csv.field_size_limit(LONGEST)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        delimiter = "\t" if file.suffix == ".tsv" else tell_delimiter(stream.read(HEAD))
        stream.seek(0)
        rows: list[Any] = []
        for row in csv.DictReader(stream, delimiter=delimiter):
            if None in row:
                raise ValueError(f"row {len(rows) + 1} has more fields than the header")
            rows.append({key: value or None for key, value in row.items()})
    return rows


def _read_parquet(file: Path) -> list[Any]:
    import pyarrow.parquet as pq

    rows: list[Any] = pq.read_table(file).to_pylist()
    return rows
