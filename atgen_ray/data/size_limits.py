"""Size limits of input files: small files that unpack to huge ones, and rows too long to be texts,
are refused.
"""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import Any

LONGEST = 16 << 20  # most bytes of a record, and characters of a text
# Most times the size of its file that data may have; text compresses to about a tenth, a
# decompression bomb to a thousandth.
EXPANSION = 300
FREE = 256 << 20  # bytes that any file may unpack to
ARRAY = 1 << 30  # most bytes of a JSON array, which is parsed in one piece


class FileTooLargeError(OSError):
    """A file unpacks to more than its size explains."""


def allow(size: int | None) -> float:
    """Return the bytes that a file of `size` may unpack to; infinity if its size is unknown."""
    return float("inf") if size is None else max(FREE, EXPANSION * size)


class LimitedStream(io.RawIOBase):
    """An unpacked stream that raises FileTooLargeError after `limit` bytes."""

    def __init__(self, file: Any, limit: float, name: str) -> None:
        self._file = file
        self._left = limit
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise FileTooLargeError(f"{self._name} unpacks to more than {EXPANSION} times its size")
        buffer[: len(data)] = data
        return len(data)


def open_limited(file: Any, size: int | None, name: str) -> io.BufferedReader:
    """Open `file` for reading in pieces, within what its `size` allows."""
    return io.BufferedReader(LimitedStream(file, allow(size), name), buffer_size=1 << 20)


def read_lines(reader: "io.BufferedReader[Any]") -> Iterator[bytes | None]:
    """Yield the lines; None in place of one longer than LONGEST."""
    while line := reader.readline(LONGEST + 1):
        whole = len(line) <= LONGEST
        while not whole and not line.endswith(b"\n") and (line := reader.readline(LONGEST)):
            pass
        yield line if whole else None


class Lines:
    """Lines of a text for a CSV reader; it raises csv.Error in place of a line longer than
    LONGEST.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._record: list[str | None] = []  # lines since `start`; None for one that is too long
        self._again: deque[str | None] = deque()  # lines to return once more
        self.given = 0  # lines so far

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if line == "":
            raise StopIteration
        self._record.append(line)
        self.given += 1
        if line is None:
            raise csv.Error(describe_length())
        return line

    def start(self) -> None:
        """Mark the next line as the beginning of a record."""
        self._record = []

    def retry(self) -> None:
        """Return all lines of a broken record but the first to the reader: a quote that is never
        closed swallows good rows.
        """
        taken = self._record[1:]
        self._again.extendleft(reversed(taken))
        self.given -= len(taken)

    def _read(self) -> str | None:
        line = self._text.readline(LONGEST + 1)
        if len(line) <= LONGEST:
            return line
        while line and not line.endswith("\n"):
            line = self._text.readline(LONGEST)
        return None


def describe_length() -> str:
    """Return the reason why a record is too long."""
    return f"has more than {LONGEST >> 20} MB"


def check_encoding(head: bytes, name: str) -> None:
    """Check that a text file does not begin as UTF-16 or UTF-32, which spreadsheets write as
    "Unicode text". Raise OSError if it does.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise OSError(f"{name} is UTF-16 or UTF-32, expected UTF-8")


def check_parquet(metadata: Any, size: int, name: str) -> None:
    """Check that the rows of a Parquet file are no larger than its `size` explains. Raise
    FileTooLargeError if they are.
    """
    groups = (metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    if sum(groups) > allow(size) or metadata.num_rows > allow(size):
        raise FileTooLargeError(f"{name} unpacks to more than {EXPANSION} times its size")
