"""What pydantic found wrong as lines for the user: the key, its value, what was expected and the
nearest choice.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from atgen_ray.core.errors import nearest
from atgen_ray.core.schema import (
    describe_field,
    find_alternatives,
    find_section,
    is_union,
    list_settings,
    type_name,
)

HIDDEN = "database_url"  # the key whose value may hold a password
ITEMS = (list, dict)
MANY = 5  # keys of one name that a hint lists
SHOWN = 80  # characters of a key or value
SLIP = (
    0.85  # how much a key must be like one of its own section for no other section to be looked at
)


def explain_mistakes(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[str]:
    """A line for each key that is wrong in what was to become a `model`; `prefix` goes before every
    key.
    """
    return list(find_mistakes(error, model, prefix).values())


def find_mistakes(
    error: ValidationError, model: type[BaseModel], prefix: str = ""
) -> dict[str, str]:
    """As `explain_mistakes`, by the keys that are wrong."""
    lines: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        key, field, holder = _locate(model, detail["loc"])
        lines.setdefault(prefix + key, _explain(detail, prefix + key, field, holder, model))
    return lines


def check_values(values: Mapping[str, Any], model: type[BaseModel], prefix: str) -> None:
    """Nothing, where `values` make a `model`; else ValueError with a line for each wrong key."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(explain_mistakes(error, model, prefix))) from None


def show_value(key: str, value: Any) -> str:
    """A wrong value as a message shows it: short, on one line, and nothing of a secret."""
    if key.partition(".")[0] == HIDDEN or HIDDEN in repr(
        value
    ):  # a file indented wrongly puts it in another section
        return "a value that is not shown"
    return _shorten(json.dumps(value) if value is None or isinstance(value, bool) else repr(value))


def _locate(
    model: type[BaseModel], path: tuple[int | str, ...]
) -> tuple[str, FieldInfo | None, type[BaseModel]]:
    """The dotted key of `path`, its field (None where there is none of that name) and its
    section.
    """
    keys: list[str] = []
    field: FieldInfo | None = None
    holder = model
    section = find_section(model)
    item = False  # whether the next part is of a list or dictionary, not the name of a field
    for part in path:
        if (
            field is not None and field.discriminator
        ):  # pydantic names which of alternative sections it tried
            section = find_alternatives(field).get(str(part))
            holder = section or holder
            field = None
            continue
        if (
            section is None
        ):  # within a plain value, where pydantic names the alternative of a union that it tried
            keys += [] if field is None or is_union(field.annotation) else [str(part)]
            break
        keys.append(str(part))
        if item:
            item = False
            continue
        holder = section
        field = section.model_fields.get(str(part))
        section = find_section(field.annotation) if field else None
        item = field is not None and get_origin(field.annotation) in ITEMS
    return ".".join(keys), field, holder


def _explain(
    detail: ErrorDetails,
    key: str,
    field: FieldInfo | None,
    holder: type[BaseModel],
    root: type[BaseModel],
) -> str:
    kind = detail["type"]
    message = detail["msg"]
    if kind in ("extra_forbidden", "invalid_key"):
        hint = _find_key(key.rpartition(".")[2], holder, root)
        return f"unknown key {_shorten(repr(key))}{hint}"
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        if field is None or (
            find_section(field.annotation) and get_origin(field.annotation) not in ITEMS
        ):
            return message  # sections compare their keys, and name them in full
        return f"{key} {message}" if message.startswith(("is ", "holds ")) else f"{key}: {message}"
    if kind == "union_tag_invalid":
        context = detail.get("ctx", {})
        choices = [choice.strip("'") for choice in context["expected_tags"].split(", ")]
        which = context["discriminator"].strip("'")
        found = show_value(key, context["tag"])
        hint = nearest(context["tag"], choices)
        return f"{key}.{which} is {found}, expected a known type{hint}"
    if kind == "union_tag_not_found":
        types = ", ".join(find_alternatives(field)) if field else ""
        return f"key '{key}.type' is missing, expected one of {types}"
    if field is None:
        return message
    if kind == "missing":
        return (
            f"key '{key}' is missing, expected {type_name(field.annotation)}: "
            f"{describe_field(field)}"
        )
    if kind == "recursion_loop":
        return f"{key} contains itself, expected plain values"
    expected = message.replace("Input should be", "expected", 1)
    if kind == "model_type" or (field and find_alternatives(field)):
        expected = "expected keys and values"
    elif is_union(field.annotation):
        expected = f"expected {type_name(field.annotation)}"
    elif kind == "literal_error":
        expected += _nearest_only(str(detail["input"]), get_args(field.annotation))
    return f"{key} is {show_value(key, detail['input'])}, {expected}"


def _find_key(name: str, holder: type[BaseModel], root: type[BaseModel]) -> str:
    """The nearest key as a hint: one of the section `holder`, or one elsewhere in `root` that is
    called more alike.
    """
    known = list(holder.model_fields)
    if not known:
        return "; none is known here"
    elsewhere: dict[str, list[str]] = {}
    for setting in list_settings(root):
        if "[" not in setting["key"] and ".*" not in setting["key"]:
            elsewhere.setdefault(setting["key"].rpartition(".")[2], []).append(setting["key"])
    best = _closest(name, elsewhere)
    here = max(_likeness(name, each) for each in known)
    if best is None or here >= SLIP or _likeness(name, best) <= here:
        return nearest(name, known)
    depth = min(key.count(".") for key in elsewhere[best])
    keys = [
        key for key in elsewhere[best] if key.count(".") == depth
    ]  # selection.strategy, not that of the first batch
    if len(keys) == 1:
        return f"; did you mean '{keys[0]}'?"
    return f"; did you mean one of {', '.join(keys[:MANY])}?"


def _closest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, [*names], n=1, cutoff=0.8)), None)


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def _nearest_only(name: str, choices: tuple[str, ...]) -> str:
    """The nearest of choices that the message has listed already."""
    hint = nearest(name, choices)
    return hint if "did you mean" in hint else ""


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
