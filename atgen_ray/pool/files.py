"""JSON Lines, CSV and Parquet files as Ray Data sources in which one bad row is one bad row.

Ray's own readers parse a file in one go, so one bad line fails all of it, and want one schema for all files. These
stream the raw records of a file, whatever its compression; a decoder parses them, one at a time, in the map that
follows.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.datasource import FileBasedDatasource

from atgen_ray.pool.bounds import (
    ARRAY,
    LONGEST,
    Lines,
    TooMuch,
    check_parquet,
    describe_length,
    open_counted,
    read_lines,
)
from atgen_ray.pool.rows import Row

BLOCK_ROWS = 1000
BLOCK_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_RAW_SCHEMA = pa.schema([("record", pa.binary()), ("place", pa.string()), ("error", pa.string())])

_Raw = tuple[bytes, str, str | None]


class JsonRecords(FileBasedDatasource):
    """One JSON value a line, or one array of them; blank lines are no rows."""

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        name = PurePosixPath(path).name
        reader = open_counted(f, _size(self, path), name)
        head = reader.peek(64).removeprefix(_BOM).lstrip()
        if head.startswith(b"["):
            content = reader.read(ARRAY + 1).removeprefix(_BOM)
            if len(content) > ARRAY:
                raise TooMuch(f"{name} begins an array of more than {ARRAY >> 20} MB, expected JSON Lines")
            try:
                items = json.loads(content)
            except (ValueError, RecursionError):  # lines after all, of which the first is an array
                reader = io.BufferedReader(io.BytesIO(content))
            else:
                yield from _to_blocks(_split_items(items, name))
                return
        yield from _to_blocks(_split_lines(reader, name))


class CsvRecords(FileBasedDatasource):
    """CSV with a header, or TSV by its name; a column name that the header repeats holds a list of its values."""

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        csv.field_size_limit(LONGEST)
        file = PurePosixPath(path)
        counted = open_counted(f, _size(self, path), file.name)
        text = io.TextIOWrapper(counted, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(Lines(text), delimiter="\t" if ".tsv" in file.suffixes else ",", strict=True)
        yield from _to_blocks(_split_fields(reader, file.name))


class ParquetRecords(FileBasedDatasource):
    """Parquet, with the columns that the file has."""

    def _open_input_source(self, filesystem: Any, path: str, **open_args: Any) -> pa.NativeFile:
        return filesystem.open_input_file(path)

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        file = pq.ParquetFile(f)
        check_parquet(file.metadata, f.size(), PurePosixPath(path).name)
        for batch in file.iter_batches(batch_size=BLOCK_ROWS):
            yield pa.Table.from_batches([batch])


def _size(source: FileBasedDatasource, path: str) -> int | None:
    """Bytes of a file as it lies there, packed or not; None where its server does not say."""
    size: int | None = source._filesystem.get_file_info(path).size
    return size


def _split_items(items: list[Any], name: str) -> Iterator[_Raw]:
    for number, item in enumerate(items, start=1):
        yield json.dumps(item).encode(), f"{name} item {number}: ", None


def _split_lines(reader: io.BufferedReader, name: str) -> Iterator[_Raw]:
    for number, line in enumerate(read_lines(reader), start=1):
        if line is None:
            yield b"", f"{name} line {number}: ", describe_length()
            continue
        record = (line.removeprefix(_BOM) if number == 1 else line).strip()
        if record:
            yield record, f"{name} line {number}: ", None


def _split_fields(reader: Any, name: str) -> Iterator[_Raw]:
    header: list[str] | None = None
    while True:
        place = f"{name} line {reader.line_num + 1}: "
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            unclosed = "a quote is never closed, rows after it may be lost"
            yield b"", place, f"is not valid CSV: {unclosed if 'end of data' in str(error) else error}"
            continue
        if header is None:
            header = fields
        elif fields and len(fields) != len(header):
            yield b"", place, f"has {len(fields)} fields, expected {len(header)} as in the header"
        elif fields:
            yield _encode_fields(header, fields), place, None


def _encode_fields(header: list[str], fields: list[str]) -> bytes:
    record: dict[str, Any] = dict(zip(header, fields, strict=True))
    if len(record) < len(header):
        for name in record:
            values = [value for column, value in zip(header, fields, strict=True) if column == name]
            record[name] = values if len(values) > 1 else values[0]
    # Bytes that were not UTF-8 turn into themselves again, for decode_records to find.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _to_blocks(rows: Iterator[_Raw]) -> Iterator[pa.Table]:
    block: list[_Raw] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row[0])
        if len(block) == BLOCK_ROWS or size > BLOCK_BYTES:
            yield _to_table(block)
            block, size = [], 0
    if block:
        yield _to_table(block)


def _to_table(rows: list[_Raw]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=_RAW_SCHEMA)


def decode_records(table: pa.Table) -> Iterator[Row]:
    """The rows of a block that JsonRecords or CsvRecords made."""
    for raw in table.to_pylist():
        record, error = (None, raw["error"]) if raw["error"] else _decode_json(raw["record"])
        yield record, error, raw["place"]


def _decode_json(content: bytes) -> tuple[Any, str | None]:
    # Reasons name the place of a mistake, never the text around it: that may be an answer.
    try:
        return json.loads(content.decode("utf-8")), None
    except UnicodeDecodeError:
        return None, "is not valid UTF-8"
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of open brackets
        return None, f"is not usable JSON: {error}"


def decode_columns(table: pa.Table) -> Iterator[Row]:
    """The rows of a block of Parquet or Arrow.

    Columns of types that other libraries define are left out: to read one runs their code, which may unpickle.
    """
    table = table.select([at for at, field in enumerate(table.schema) if not _is_foreign(field.type)])
    try:
        records = table.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # of one row: Arrow does not check text when it reads it
        yield from (_decode_row(table, at) for at in range(table.num_rows))
    else:
        yield from ((record, None, "") for record in records)


def _is_foreign(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.ExtensionType):
        return True
    if pa.types.is_dictionary(kind):
        return _is_foreign(kind.value_type)
    return any(_is_foreign(kind.field(at).type) for at in range(kind.num_fields))


def _decode_row(table: pa.Table, at: int) -> Row:
    try:
        return table.slice(at, 1).to_pylist()[0], None, ""
    except UnicodeDecodeError:
        return None, "is not valid UTF-8", ""
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return None, f"holds a value that Python cannot represent: {type(error).__name__}", ""
