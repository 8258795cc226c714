"""Layouts of JSON files that are not JSON Lines: rows in an array, in a wrapper, as columns, or
over several lines.
"""

import json
import re
from typing import Any

# Keys under which publishers keep the rows of a file that also has a version or a licence.
WRAPPERS = ("data", "rows", "examples", "items", "records", "instances", "samples")

_SPACE = re.compile(r"[ \t\r\n]*")


def continues_below(line: bytes) -> bool:
    """Return whether `line` begins a JSON object that ends in a later line, as pretty-printers
    write it.
    """
    if not line.startswith(b"{"):
        return False
    try:
        text = line.decode("utf-8").rstrip()
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except (ValueError, RecursionError):
        pass
    return False


def parse_values(content: bytes, most: int | None = None) -> list[Any] | None:
    """Return the JSON values that follow one another in `content`; None if it is anything else, or
    has more than `most`.
    """
    decoder = json.JSONDecoder()
    values: list[Any] = []
    try:
        text = content.decode("utf-8").strip()
        at = 0
        while at < len(text):
            if len(values) == most:
                return None
            value, end = decoder.raw_decode(text, at)
            values.append(value)
            space = _SPACE.match(text, end)
            at = space.end() if space else end
    except (ValueError, RecursionError):
        return None
    return values


def unwrap(values: list[Any]) -> list[Any]:
    """Return the rows in the values of a file.

    A file of one value may be an array of rows; an object that keeps them under one of WRAPPERS; a
    table, which is an object of columns of one length, as lists or, as pandas writes them, as
    objects keyed by row; or an object of rows keyed by number.
    """
    if len(values) != 1:
        return values
    value = values[0]
    if isinstance(value, list):
        return value
    return _find_wrapped(value) or _turn_columns(value) or _take_numbered(value) or values


def _find_wrapped(value: dict[str, Any]) -> list[Any] | None:
    found = [value[key] for key in WRAPPERS if _is_rows(value.get(key))]
    return found[0] if len(found) == 1 else None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _turn_columns(value: dict[str, Any]) -> list[Any] | None:
    columns = {name: _list_cells(column) for name, column in value.items()}
    lengths = {len(cells) if cells is not None else -1 for cells in columns.values()}
    if (
        len(lengths) != 1
        or max(lengths) < 2
        or (len(columns) == 1 and _is_rows(next(iter(value.values()))))
    ):
        return None
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _list_cells(column: Any) -> list[Any] | None:
    if isinstance(column, dict) and list(column) == [str(at) for at in range(len(column))]:
        return list(column.values())
    return column if isinstance(column, list) else None


def _take_numbered(value: dict[str, Any]) -> list[Any] | None:
    rows = _list_cells(value)
    return rows if rows and len(rows) > 1 and _is_rows(rows) else None
