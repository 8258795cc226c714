"""What stands in a row beside the input: texts for people, and short columns by which lists are
filtered.
"""

import json
import math
from typing import Any

from atgen_ray.core.strict_json import encode_json
from atgen_ray.data.columns import Address, restore_integers

LONGEST_FIELD = 200  # characters of a short column
MOST_FIELDS = 40  # short columns of a row
LONGEST_BESIDE = 50_000  # characters of a text beside the input


def read_context(beside: dict[str, list[tuple[Address, Any]] | None]) -> str:
    """Return what stands beside the input as a JSON object: texts as they are, other values as
    JSON; a column without a value is left out.
    """
    shown = dict[str, str]()
    for path, leaves in beside.items():
        values = [restore_integers(value) for _, value in leaves or () if value is not None]
        if not values:
            continue
        value = values[0] if len(values) == 1 else values
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        text = value if isinstance(value, str) else json.dumps(value, default=str, indent=1)
        text = text.encode("utf-8", "replace").decode()
        shown[path] = text if len(text) <= LONGEST_BESIDE else f"{text[:LONGEST_BESIDE]} …"
    return json.dumps(shown)


def read_fields(columns: dict[str, Any], input: str) -> str:
    """Return the short columns of a row as a JSON object by their dotted paths: texts, numbers, and
    true and false as texts. The input is left out, as are paths that a database cannot ask for.
    """
    found = dict[str, str | int | float]()
    waiting = [(name, value) for name, value in columns.items() if name != "input"]
    while waiting and len(found) < MOST_FIELDS:
        path, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}", inner) for name, inner in value.items()]
        value = restore_integers(value)
        if isinstance(value, bool):
            value = str(value).lower()
        if path == input or '"' in path or not path.isprintable():
            continue
        if (isinstance(value, str) and len(value) <= LONGEST_FIELD) or (
            isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e15
        ):
            found[path] = value
    return encode_json(found)
