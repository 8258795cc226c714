"""Layout of a CSV file: the character between its fields, told by the beginning of the file.

Spreadsheets of many countries write `;`, and databases tabs, under the name .csv.
"""

import csv
import io
from contextlib import suppress
from itertools import islice

DELIMITERS = (",", ";", "\t", "|")
HEAD = 1 << 16  # characters of a file that are looked at
ROWS = 100


def tell_delimiter(head: str) -> str:
    """Return the delimiter with which most rows of `head` have as many fields as the header.

    A header without any delimiter is one column, and a comma wins where another is no better. A
    delimiter other than a comma must fit more than half of the rows: it may stand in a text.
    """
    shares = {each: _fit(head, each) for each in DELIMITERS}
    best = max(DELIMITERS, key=shares.__getitem__)
    return best if shares[best] > 0.5 else ","


def _fit(head: str, delimiter: str) -> float:
    """Return the share of rows with as many fields as the header; 0 for a header of one field."""
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
    with suppress(csv.Error):  # the reader of the file tells which row it is
        rows.extend(row for row in islice(reader, ROWS) if row)
    if len(head) >= HEAD and len(rows) > 2:
        rows.pop()  # it may be cut
    if not rows or len(rows[0]) < 2:
        return 0.0
    fitting = sum(len(row) == len(rows[0]) for row in rows[1:])
    return fitting / (len(rows) - 1) if len(rows) > 1 else 1.0
