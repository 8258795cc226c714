"""Access to values in a row by dotted path: `paper.abstract`, `answers.0.text`, `answers.text` over
a list of objects.
"""

from collections.abc import Iterator
from typing import Any

Address = tuple[str | int, ...]  # keys and indices from the row down to a value
Leaf = tuple[Address, Any]
EXACT = 2**53  # below it a float holds every integer


def find_leaves(record: dict[str, Any], path: str) -> list[Leaf] | None:
    """Return the values that `path` names in `record`, each with its address; None when the row has
    no such column.

    A column whose own name holds dots wins over a nested one. A null, an empty list or a list
    that is too short gives a single null: the column exists, the value does not.
    """
    return _descend(record, path.split("."), ())


def _descend(value: Any, parts: list[str], address: Address) -> list[Leaf] | None:
    """Return the leaves below `value` that the rest of a path names."""
    if not parts or value is None:
        return [(address, value)]
    if isinstance(value, dict):
        # Try the longest key first: a column whose own name holds dots wins over a nested one.
        for size in range(len(parts), 0, -1):
            key = ".".join(parts[:size])
            if key in value:
                leaves = _descend(value[key], parts[size:], (*address, key))
                if leaves is not None:
                    return leaves
        return None
    if isinstance(value, list):
        if parts[0].isdecimal():
            index = int(parts[0])
            if index >= len(value):
                return [(address, None)]
            return _descend(value[index], parts[1:], (*address, index))
        found = [_descend(item, parts, (*address, index)) for index, item in enumerate(value)]
        leaves = [leaf for each in found if each is not None for leaf in each]
        return leaves or (None if value else [(address, None)])
    return None


def find_addresses(record: dict[str, Any], path: str) -> list[Address]:
    """Return the addresses that `path` leads to in `record`, or as far as it leads: an answer in an
    unusual form is an answer too.
    """
    parts = path.split(".")
    for size in range(len(parts), 0, -1):
        leaves = find_leaves(record, ".".join(parts[:size]))
        if leaves is not None:
            return [address for address, _ in leaves]
    return []


def hide_leaves(
    record: dict[str, Any], hidden: list[Address], shared: set[str | int]
) -> dict[str, Any]:
    """Return a copy of `record` without the top-level columns that the `hidden` addresses lead
    into.

    From a column in `shared`, which holds the input too, only the hidden values are removed: a key
    disappears, an item of a list becomes null so that the other items keep their positions.
    """
    visible = dict(record)
    for column, *rest in hidden:
        if column not in shared:
            visible.pop(str(column), None)
        elif rest:
            visible[str(column)] = _without(visible[str(column)], rest)
    return visible


def _without(value: Any, address: list[str | int]) -> Any:
    """Return a copy of `value` without what is at `address`."""
    key = address[0]
    rest = address[1:]
    if isinstance(value, dict) and key in value:
        if rest:
            return {**value, key: _without(value[key], rest)}
        return {name: item for name, item in value.items() if name != key}
    if isinstance(value, list):
        return [
            (_without(item, rest) if rest else None) if index == key else item
            for index, item in enumerate(value)
        ]
    return value


def to_texts(value: Any) -> list[str]:
    """Return the texts in a value: none for null, one for a scalar, several for a list; 51.0
    becomes 51.

    Raises:
        ValueError: the value is an object, or not valid Unicode.
    """
    if value is None or value != value:  # NaN is how pandas and Parquet often write a null
        return []
    if isinstance(value, list | tuple):
        return [text for item in value for text in to_texts(item)]
    if isinstance(value, dict):
        raise ValueError("is an object, expected text, a number or a list of them")
    text = value.decode("utf-8") if isinstance(value, bytes) else str(restore_integers(value))
    # Raises for half a surrogate pair, which JSON escapes can spell but no file or database holds.
    text.encode("utf-8")
    return [text]


def restore_integers(value: Any) -> Any:
    """Return `value` with whole numbers as integers: a column of integers with nulls is often
    stored as floats.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    if isinstance(value, dict):
        return {name: restore_integers(item) for name, item in value.items()}
    return [restore_integers(item) for item in value] if isinstance(value, list) else value


def list_columns(record: dict[str, Any], prefix: str = "", depth: int = 3) -> Iterator[str]:
    """Yield every dotted path into `record` down to `depth`, for hints in error messages."""
    for name, value in record.items():
        yield f"{prefix}{name}"
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and depth > 1:
            yield from list_columns(inner, f"{prefix}{name}.", depth - 1)
