"""How much a file may come to: small files that unpack to endless ones, and rows too long to be texts, are refused."""

import csv
import io
from collections.abc import Iterator
from typing import Any

LONGEST = 16 << 20  # bytes of a record, and characters of a text
EXPANSION = 300  # times the size of the file; text packs to a tenth or so, a bomb to a thousandth
FREE = 256 << 20  # bytes that any file may come to
ARRAY = 1 << 30  # bytes of a JSON array, which is parsed in one piece


class TooMuch(OSError):
    """A file that unpacks to more than its size explains."""


def allow(size: int | None) -> float:
    """Bytes that a file of `size` may come to; any number where nobody knows its size."""
    return float("inf") if size is None else max(FREE, EXPANSION * size)


class Counted(io.RawIOBase):
    """An unpacked stream that ends in TooMuch after `limit` bytes."""

    def __init__(self, file: Any, limit: float, name: str) -> None:
        self._file, self._left, self._name = file, limit, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(f"{self._name} unpacks to more than {EXPANSION} times its size")
        buffer[: len(data)] = data
        return len(data)


def open_counted(file: Any, size: int | None, name: str) -> io.BufferedReader:
    """`file` for reading in pieces, within what its `size` allows."""
    return io.BufferedReader(Counted(file, allow(size), name), buffer_size=1 << 20)


def read_lines(reader: io.BufferedReader) -> Iterator[bytes | None]:
    """The lines; None in place of one longer than LONGEST."""
    while line := reader.readline(LONGEST + 1):
        whole = len(line) <= LONGEST
        while not whole and not line.endswith(b"\n") and (line := reader.readline(LONGEST)):
            pass
        yield line if whole else None


class Lines:
    """The lines of a text for a CSV reader; csv.Error in place of one longer than LONGEST."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._text.readline(LONGEST + 1)
        if not line:
            raise StopIteration
        if len(line) > LONGEST:
            while line and not line.endswith("\n"):
                line = self._text.readline(LONGEST)
            raise csv.Error(describe_length())
        return line


def describe_length() -> str:
    """Why a record is no row."""
    return f"has more than {LONGEST >> 20} MB"


def check_parquet(metadata: Any, size: int, name: str) -> None:
    """Raises TooMuch where the rows of a Parquet file are far more than its `size` explains."""
    groups = (metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    if sum(groups) > allow(size) or metadata.num_rows > allow(size):
        raise TooMuch(f"{name} unpacks to more than {EXPANSION} times its size")
