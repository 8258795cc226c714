"""Messages for validation errors of pydantic: one line for each wrong key, with its value, what was
expected and the nearest valid choice.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, PLUGIN
from atgen_ray.core.errors import nearest
from atgen_ray.core.schema import (
    describe_field,
    find_alternatives,
    find_item,
    find_section,
    is_union,
    list_settings,
    type_name,
)

HIDDEN = "database_url"  # the key whose value may hold a password
ITEMS = (list, dict)
MOST = 100  # lines
MANY = 5  # keys of one name that a hint lists
SHOWN = 80  # characters of a key or value
TYPO = 0.85  # likeness to a key of its own section from which no other section is searched


def format_validation_errors(
    error: ValidationError, model: type[BaseModel], prefix: str = ""
) -> list[str]:
    """Return a line for each wrong key of a value that should become a `model`; `prefix` goes
    before every key.
    """
    return list(find_mistakes(error, model, prefix).values())


def find_mistakes(
    error: ValidationError, model: type[BaseModel], prefix: str = ""
) -> dict[str, str]:
    """Return the lines of `format_validation_errors` by wrong key."""
    lines: dict[str, str] = {}
    details = error.errors(include_url=False)
    for at, detail in enumerate(details):
        if len(lines) >= MOST:  # each line is a search for the nearest key
            lines.setdefault("", f"{len(details) - at} more mistakes, which are not listed")
            break
        key, field, holder = _locate(model, detail["loc"])
        lines.setdefault(prefix + key, _explain(detail, prefix + key, field, holder, model))
    return lines


def check_values(values: Mapping[str, Any], model: type[BaseModel], prefix: str) -> None:
    """Raise ValueError with a line for each wrong key unless `values` make a `model`."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(format_validation_errors(error, model, prefix))) from None


def show_value(key: str, value: Any) -> str:
    """Return a wrong value as a message shows it: short, on one line, and never a secret."""
    # With wrong indentation the secret's key may be inside the value of another section.
    if key.partition(".")[0] == HIDDEN or HIDDEN in repr(value):
        return "a value that is not shown"
    return _shorten(json.dumps(value) if value is None or isinstance(value, bool) else repr(value))


def _locate(
    model: type[BaseModel], path: tuple[int | str, ...]
) -> tuple[str, FieldInfo | None, type[BaseModel]]:
    """Return the dotted key of `path`, its field (None when it has none) and its section.

    pydantic puts more than keys into the path: the tag of the alternative section that it tried,
    and the name of a union's alternative. Both are left out of the key.
    """
    keys: list[str] = []
    field: FieldInfo | None = None
    holder = model
    section = find_section(model)
    item = False  # whether the next part is of a list or dictionary, not the name of a field
    for part in path:
        if field is not None and field.discriminator:  # `part` is the tag of the section tried
            section = find_alternatives(field).get(str(part))
            holder = section or holder
            field = None
            continue
        if item and section is None and (inner := find_item(field)) is not None:
            keys.append(str(part))
            field = inner
            item = False
            continue
        if section is None:  # within a plain value `part` may be the name of a union's alternative
            if field is not None and not is_union(field.annotation):
                keys.append(str(part))
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
    """Return the line for one error of pydantic, whose own message names no choices."""
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
        if PLUGIN in choices:
            choices = [*(choice for choice in choices if choice != PLUGIN), *ANNOTATOR_PLUGINS]
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
        expected += _nearest_only(str(detail["input"]), _list_choices(field.annotation))
    return f"{key} is {show_value(key, detail['input'])}, {expected}"


def _find_key(name: str, holder: type[BaseModel], root: type[BaseModel]) -> str:
    """Return the nearest key as a hint: one of the section `holder`, or one elsewhere in `root`
    whose name is more alike.
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
    if best is None or here >= TYPO or _likeness(name, best) <= here:
        return nearest(name, known)
    depth = min(key.count(".") for key in elsewhere[best])
    # The least deep keys: selection.strategy, not selection.first.strategy.
    keys = [key for key in elsewhere[best] if key.count(".") == depth]
    if len(keys) == 1:
        return f"; did you mean '{keys[0]}'?"
    return f"; did you mean one of {', '.join(keys[:MANY])}?"


def _closest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, [*names], n=1, cutoff=0.8)), None)


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def _list_choices(annotation: Any) -> tuple[str, ...]:
    """Return the texts of a Literal, also of one within a list or a union."""
    parts = get_args(annotation)
    return tuple(
        text
        for part in parts
        for text in ((part,) if isinstance(part, str) else _list_choices(part))
    )


def _nearest_only(name: str, choices: tuple[str, ...]) -> str:
    """Return the nearest choice as a hint; empty when none is close, since the message has listed
    all choices already.
    """
    hint = nearest(name, choices)
    return hint if "did you mean" in hint else ""


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
