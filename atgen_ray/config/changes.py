"""Differences between two configurations of a run, and which of them a run may take on when it is
resumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atgen_ray.core.schema import find_alternatives, find_section, may_change


@dataclass(frozen=True)
class Change:
    """A setting with its two values. It is `allowed` if the setting, or a section around it, is
    `Changeable`.
    """

    key: str
    before: Any
    now: Any
    allowed: bool


def find_changes(
    before: Any, now: Any, section: type[BaseModel] | None, key: str = "", allowed: bool = False
) -> Iterator[Change]:
    """Yield every setting that differs between two configurations, which are plain data.

    `section` is their model, if any. A list counts as one setting, unless it has as many sections
    as before, and so does a value that `section` does not know.
    """
    if section and isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from find_changes(old, new, section, f"{key}.{place}", allowed)
        return
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield Change(key, before, now, allowed)
        return
    for name in sorted(before.keys() | now.keys()):
        field = section.model_fields.get(name) if section else None
        below = _choose_section(field, now.get(name)) if field else None
        may = allowed or (field is not None and may_change(field))
        yield from find_changes(
            before.get(name), now.get(name), below, f"{key}.{name}" if key else name, may
        )


def _choose_section(field: FieldInfo, value: Any) -> type[BaseModel] | None:
    """Return the model of a field's value if the field is a section, else None."""
    if alternatives := find_alternatives(field):
        return (
            alternatives.get(value.get(field.discriminator, ""))
            if isinstance(value, dict)
            else None
        )
    return find_section(field.annotation)
