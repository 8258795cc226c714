"""JSON Lines, CSV, Parquet and Arrow files as Ray Data sources in which a bad row affects no other
row.

Ray's own readers parse a file in one go, so one bad line fails all of it, and they want one schema
for all files. These sources stream the raw records of a file, whatever its compression; the map
that follows decodes them one at a time.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.datasource import FileBasedDatasource

from atgen_ray.data.csv_layout import HEAD, tell_delimiter
from atgen_ray.data.json_layout import continues_below, parse_values, unwrap
from atgen_ray.data.rows import Row
from atgen_ray.data.size_limits import (
    ARRAY,
    EXPANSION,
    LONGEST,
    FileTooLargeError,
    Lines,
    allow,
    check_encoding,
    check_parquet,
    describe_length,
    open_limited,
    read_lines,
)
from atgen_ray.ray_runtime.private_api import file_size

BLOCK_ROWS = 1000
BLOCK_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_ARROW_FILE = b"ARROW1"
_RAW_SCHEMA = pa.schema([("record", pa.binary()), ("place", pa.string()), ("error", pa.string())])

_Raw = tuple[bytes, str, str | None]


class JsonRecords(FileBasedDatasource):
    """Rows of a JSON file: one value a line, values over several lines, or one array, wrapper or
    table.

    Blank lines are no rows. See `json_layout.unwrap` for wrappers and tables.
    """

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        name = PurePosixPath(path).name
        reader = open_limited(f, file_size(self, path), name)
        check_encoding(reader.peek(4), name)
        yield from _to_blocks(_split_json(reader, name))


class CsvRecords(FileBasedDatasource):
    """Rows of a CSV file with a header, or of a TSV file by its name; a column name that the header
    repeats holds a list of its values.

    Args:
        delimiter: the character between fields; None for a tab in a .tsv file, and else for what
            the beginning of the file tells.
        quoting: whether quotes hold a field together; None for yes, except in a .tsv file, where
            they are text.
    """

    _delimiter: str | None = None
    _quoting: bool | None = None

    def __init__(
        self,
        paths: Any,
        *,
        delimiter: str | None = None,
        quoting: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(paths, **options)
        self._delimiter = delimiter
        self._quoting = quoting

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        csv.field_size_limit(LONGEST)
        file = PurePosixPath(path)
        stream = open_limited(f, file_size(self, path), file.name)
        head = stream.peek(HEAD)[:HEAD]
        check_encoding(head, file.name)
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines = Lines(text)
        tabs = ".tsv" in PurePosixPath(path.lower()).suffixes
        quoted = not tabs if self._quoting is None else self._quoting
        reader = csv.reader(
            lines,
            delimiter=self._delimiter
            or ("\t" if tabs else tell_delimiter(head.decode("utf-8-sig", "replace"))),
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        yield from _to_blocks(_split_fields(reader, lines, file.name))


class ParquetRecords(FileBasedDatasource):
    """Rows of a Parquet file, with the columns that the file has."""

    def _open_input_source(self, filesystem: Any, path: str, **open_args: Any) -> pa.NativeFile:
        return filesystem.open_input_file(path)

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        file = pq.ParquetFile(f)
        check_parquet(file.metadata, f.size(), PurePosixPath(path).name)
        for batch in file.iter_batches(batch_size=BLOCK_ROWS):
            yield pa.Table.from_batches([batch])


class ArrowRecords(FileBasedDatasource):
    """Rows of an Arrow IPC stream, as datasets.save_to_disk writes it, or of an IPC file."""

    def _open_input_source(self, filesystem: Any, path: str, **open_args: Any) -> pa.NativeFile:
        return filesystem.open_input_file(path)

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        left = allow(f.size())
        for batch in _iterate_batches(f):
            left -= batch.nbytes
            if left < 0:
                raise FileTooLargeError(
                    f"{PurePosixPath(path).name} unpacks to more than {EXPANSION} times its size"
                )
            yield pa.Table.from_batches([batch])


def _iterate_batches(f: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    if f.read(len(_ARROW_FILE)) == _ARROW_FILE:
        file = pa.ipc.open_file(f)
        yield from (file.get_batch(at) for at in range(file.num_record_batches))
    else:
        f.seek(0)
        yield from pa.ipc.open_stream(f)


def _split_json(reader: io.BufferedReader, name: str) -> Iterator[_Raw]:
    """Yield the raw records of a JSON file."""
    blank, first = _read_first(reader)
    content = first.removeprefix(_BOM).lstrip()
    # The beginning tells the layout: an array, an object over several lines, or JSON Lines. Only as
    # much is read as that takes, because JSON Lines may be of any length.
    values: list[Any] | None = None
    if content.startswith(b"["):
        content += reader.read(max(ARRAY + 1 - len(content), 0))
        if len(content) > ARRAY:
            raise FileTooLargeError(
                f"{name} begins an array of more than {ARRAY >> 20} MB, expected JSON Lines"
            )
        # Without a single value these are lines after all, of which the first is an array.
        values = parse_values(content, most=1)
    elif content.startswith(b"{") and (len(first) > LONGEST or continues_below(content)):
        content += reader.read(max(ARRAY - len(content), 0))
        values = parse_values(content) if not reader.peek(1) else None
        content += reader.readline(LONGEST)
    else:
        _skip_rest(reader, first)
        more, second = _read_first(reader)
        _skip_rest(reader, second)
        values = parse_values(content) if content.startswith(b"{") and not second else None
        content = content.rstrip(b"\n") + b"\n" * (more + 1) + second
    rows = values
    # In a .jsonl file a single row with lists of one length is no table.
    if values is not None and ".json" in PurePosixPath(name.lower()).suffixes:
        rows = unwrap(values)
    if rows is not None:
        yield from (
            (json.dumps(row).encode(), f"{name} item {at}: ", None)
            for at, row in enumerate(rows, start=1)
        )
        return
    known = io.BufferedReader(io.BytesIO(content))
    yield from _split_lines(chain(read_lines(known), read_lines(reader)), name, blank + 1)


def _read_first(reader: io.BufferedReader) -> tuple[int, bytes]:
    """Return the number of blank lines, and the line after them, cut if it is longer than
    LONGEST.
    """
    blank = 0
    while line := reader.readline(LONGEST + 1):
        if line.removeprefix(_BOM).strip():
            return blank, line
        blank += 1
    return blank, b""


def _skip_rest(reader: io.BufferedReader, line: bytes) -> None:
    """Read to the end of a line that was cut."""
    while len(line) >= LONGEST and not line.endswith(b"\n"):
        line = reader.readline(LONGEST)


def _split_lines(lines: Iterable[bytes | None], name: str, start: int) -> Iterator[_Raw]:
    for number, line in enumerate(lines, start=start):
        if line is None:
            yield b"", f"{name} line {number}: ", describe_length()
        elif record := line.strip():
            yield record, f"{name} line {number}: ", None


def _split_fields(reader: Any, lines: Lines, name: str) -> Iterator[_Raw]:
    """Yield the raw records of a CSV file, encoded as JSON objects."""
    header: list[str] | None = None
    while True:
        lines.start()
        place = f"{name} line {lines.given + 1}: "
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.retry()
            reason = "a quote is never closed" if "end of data" in str(error) else str(error)
            yield b"", place, f"is not valid CSV: {reason}"
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
    # "surrogateescape" restores bytes that were not UTF-8, so that decode_records finds them.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _to_blocks(rows: Iterator[_Raw]) -> Iterator[pa.Table]:
    block: list[_Raw] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row[0])
        if len(block) == BLOCK_ROWS or size > BLOCK_BYTES:
            yield _to_table(block)
            block = []
            size = 0
    if block:
        yield _to_table(block)


def _to_table(rows: list[_Raw]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=_RAW_SCHEMA)


def decode_records(table: pa.Table) -> Iterator[Row]:
    """Yield the rows of a block that JsonRecords or CsvRecords produced."""
    for raw in table.to_pylist():
        if raw["error"]:
            yield None, raw["error"], raw["place"]
        else:
            record, error = _decode_json(raw["record"])
            yield record, error, raw["place"]


def _decode_json(content: bytes) -> tuple[Any, str | None]:
    # Reasons name the position of a mistake, never the text around it, which may be an answer.
    try:
        return json.loads(content.decode("utf-8")), None
    except UnicodeDecodeError:
        return None, "is not valid UTF-8"
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        # A number has thousands of digits, or thousands of brackets are open.
        return None, f"is not usable JSON: {error}"


def decode_columns(table: pa.Table) -> Iterator[Row]:
    """Yield the rows of a block of Parquet or Arrow.

    Columns of types that other libraries define are omitted: reading one runs code of those
    libraries, which may unpickle.
    """
    table = table.select(
        [at for at, field in enumerate(table.schema) if not _is_foreign(field.type)]
    )
    try:
        records = table.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        # Some row is at fault, since Arrow does not check text when it reads it: decode one by one.
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
