"""JSON Lines, CSV and Parquet files as Ray Data sources in which one bad row is one bad row.

Ray's own readers parse a file in one go, so one bad line fails all of it, and want one schema for
all files. These stream the raw records of a file, whatever its compression; a decoder parses them,
one at a time, in the map that follows.
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

from atgen_ray.data.json_layout import goes_on, parse_values, unwrap
from atgen_ray.data.rows import Row
from atgen_ray.data.size_limits import (
    ARRAY,
    EXPANSION,
    LONGEST,
    Lines,
    TooMuch,
    allow,
    check_encoding,
    check_parquet,
    describe_length,
    open_counted,
    read_lines,
)

BLOCK_ROWS = 1000
BLOCK_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_ARROW_FILE = b"ARROW1"
_RAW_SCHEMA = pa.schema([("record", pa.binary()), ("place", pa.string()), ("error", pa.string())])

_Raw = tuple[bytes, str, str | None]


class JsonRecords(FileBasedDatasource):
    """JSON values a line each, or one below the other over several lines, or one array, wrapper or
    table of them.

    Blank lines are no rows. See `json_layout.unwrap` for wrappers and tables.
    """

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        name = PurePosixPath(path).name
        reader = open_counted(f, _size(self, path), name)
        check_encoding(reader.peek(4), name)
        yield from _to_blocks(_split_json(reader, name))


class CsvRecords(FileBasedDatasource):
    """CSV with a header, or TSV by its name; a column name that the header repeats holds a list of
    its values.

    Args:
        delimiter: the character between fields; None for a comma, or a tab in a .tsv file.
        quoting: whether quotes hold a field together; None for yes, but not in a .tsv file, where
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
        counted = open_counted(f, _size(self, path), file.name)
        check_encoding(counted.peek(4), file.name)
        text = io.TextIOWrapper(counted, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines = Lines(text)
        tabs = ".tsv" in PurePosixPath(path.lower()).suffixes
        quoted = not tabs if self._quoting is None else self._quoting
        reader = csv.reader(
            lines,
            delimiter=self._delimiter or ("\t" if tabs else ","),
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        yield from _to_blocks(_split_fields(reader, lines, file.name))


class ParquetRecords(FileBasedDatasource):
    """Parquet, with the columns that the file has."""

    def _open_input_source(self, filesystem: Any, path: str, **open_args: Any) -> pa.NativeFile:
        return filesystem.open_input_file(path)

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        file = pq.ParquetFile(f)
        check_parquet(file.metadata, f.size(), PurePosixPath(path).name)
        for batch in file.iter_batches(batch_size=BLOCK_ROWS):
            yield pa.Table.from_batches([batch])


class ArrowRecords(FileBasedDatasource):
    """Arrow's IPC streams, as datasets.save_to_disk writes them, or its IPC files."""

    def _open_input_source(self, filesystem: Any, path: str, **open_args: Any) -> pa.NativeFile:
        return filesystem.open_input_file(path)

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:
        left = allow(f.size())
        for batch in _iterate_batches(f):
            left -= batch.nbytes
            if left < 0:
                raise TooMuch(
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


def _size(source: FileBasedDatasource, path: str) -> int | None:
    """Bytes of a file as it lies there, packed or not; None where its server does not say."""
    size: int | None = source._filesystem.get_file_info(path).size
    return size


def _split_json(reader: io.BufferedReader, name: str) -> Iterator[_Raw]:
    blank, first = _read_first(reader)
    content = first.removeprefix(_BOM).lstrip()
    values: list[Any] | None = None
    if content.startswith(b"["):
        content += reader.read(max(ARRAY + 1 - len(content), 0))
        if len(content) > ARRAY:
            raise TooMuch(
                f"{name} begins an array of more than {ARRAY >> 20} MB, expected JSON Lines"
            )
        values = parse_values(
            content, most=1
        )  # else lines after all, of which the first is an array
    elif content.startswith(b"{") and (len(first) > LONGEST or goes_on(content)):
        content += reader.read(max(ARRAY - len(content), 0))
        values = parse_values(content) if not reader.peek(1) else None
        content += reader.readline(LONGEST)
    else:
        _skip_rest(reader, first)
        more, second = _read_first(reader)
        _skip_rest(reader, second)
        values = parse_values(content) if content.startswith(b"{") and not second else None
        content = content.rstrip(b"\n") + b"\n" * (more + 1) + second
    # A lone row of a JSON Lines file may have lists of one length too.
    rows = (
        unwrap(values)
        if values is not None and ".json" in PurePosixPath(name.lower()).suffixes
        else values
    )
    if rows is not None:
        yield from (
            (json.dumps(row).encode(), f"{name} item {at}: ", None)
            for at, row in enumerate(rows, start=1)
        )
        return
    known = io.BufferedReader(io.BytesIO(content))
    yield from _split_lines(chain(read_lines(known), read_lines(reader)), name, blank + 1)


def _read_first(reader: io.BufferedReader) -> tuple[int, bytes]:
    """How many blank lines there are, and the line after them, cut where it is longer than
    LONGEST.
    """
    blank = 0
    while line := reader.readline(LONGEST + 1):
        if line.removeprefix(_BOM).strip():
            return blank, line
        blank += 1
    return blank, b""


def _skip_rest(reader: io.BufferedReader, line: bytes) -> None:
    """To the end of a line that was cut."""
    while len(line) >= LONGEST and not line.endswith(b"\n"):
        line = reader.readline(LONGEST)


def _split_lines(lines: Iterable[bytes | None], name: str, start: int) -> Iterator[_Raw]:
    for number, line in enumerate(lines, start=start):
        if line is None:
            yield b"", f"{name} line {number}: ", describe_length()
        elif record := line.strip():
            yield record, f"{name} line {number}: ", None


def _split_fields(reader: Any, lines: Lines, name: str) -> Iterator[_Raw]:
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
            yield (
                b"",
                place,
                f"is not valid CSV: "
                f"{'a quote is never closed' if 'end of data' in str(error) else error}",
            )
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
            block = []
            size = 0
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
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, thousands of open brackets
        return None, f"is not usable JSON: {error}"


def decode_columns(table: pa.Table) -> Iterator[Row]:
    """The rows of a block of Parquet or Arrow.

    Columns of types that other libraries define are left out: to read one runs their code, which
    may unpickle.
    """
    table = table.select(
        [at for at, field in enumerate(table.schema) if not _is_foreign(field.type)]
    )
    try:
        records = table.to_pylist()
    except (
        ValueError,
        OverflowError,
        pa.ArrowException,
    ):  # of one row: Arrow does not check text when it reads it
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
