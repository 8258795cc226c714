"""Trees of settings: their base class `Section`, and listings of a tree as dotted keys with type,
default and description.
"""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from atgen_ray.core.strict_yaml import dump_yaml

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
MAY_CHANGE = "may change"
T = TypeVar("T")
# Marks a setting that may change when a run is resumed: it decides how the work is done or when it
# ends, not what the labels are. On a section it holds for all settings below.
Changeable = Annotated[T, MAY_CHANGE]
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Section(BaseModel):
    """A part of the tree. Unknown keys are errors, and so is `true` for a number or a number for
    text.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _read_empty(cls, tree: Any) -> Any:
        """Read null, which YAML gives for a section whose keys are all commented out, as empty."""
        return {} if tree is None else tree


def list_settings(model: type[BaseModel], prefix: str = "") -> Iterator[dict[str, str]]:
    """Yield `key`, `type`, `default` and `description` of each field of the tree, in its order; a
    section before its fields.

    The fields of alternative sections follow under `key[type]`, except those of alternatives within
    alternatives, which would repeat the list for every type.
    """
    for name, field in model.model_fields.items():
        key = prefix + name
        section = find_section(field.annotation)
        kind = type_name(field.annotation, field.metadata)
        default = _default(field)
        yield {"key": key, "type": kind, "default": default, "description": describe_field(field)}
        if field.discriminator:
            for tag, alternative in find_alternatives(field).items():
                yield from list_settings(alternative, f"{key}[{tag}].") if "[" not in key else ()
        elif section is not None:
            origin = get_origin(field.annotation)
            item = "[]" if origin is list else ".*" if origin is dict else ""
            yield from list_settings(section, f"{key}{item}.")


def merge_trees(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both trees in one; where both have a key, sections are merged and the value of `above`
    replaces any other.
    """
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            value = merge_trees(known, value)
        merged[key] = value
    return merged


def describe_field(field: FieldInfo) -> str:
    """Return the description of the field, or of the section that is its value."""
    section = find_section(field.annotation)
    return field.description or " ".join((section.__doc__ or "").split() if section else "")


def find_section(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `Section`, `Section | None`, `list[Section]` or
    `dict[str, Section]`; None if there is none.
    """
    candidates = get_args(annotation) or (annotation,)
    return next(
        (item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)),
        None,
    )


def find_alternatives(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """Return the alternative sections of a field by the value of their discriminator; empty for any
    other field.
    """
    if not isinstance(field.discriminator, str):
        return {}
    sections = [item for item in get_args(field.annotation) if issubclass(item, BaseModel)]
    return {
        get_args(item.model_fields[field.discriminator].annotation)[0]: item for item in sections
    }


def find_item(field: FieldInfo | None) -> FieldInfo | None:
    """Return the field that an item of a list is, where it has alternative sections; else None."""
    inside = get_args(field.annotation) if field is not None else ()
    if field is None or get_origin(field.annotation) is not list or not inside:
        return None
    item = FieldInfo.from_annotation(inside[0])
    return item if find_alternatives(item) else None


def may_change(field: FieldInfo) -> bool:
    """Return whether the setting is `Changeable`."""
    return MAY_CHANGE in field.metadata


def is_union(annotation: Any) -> bool:
    """Return whether the annotation has several alternatives, null not counted."""
    return (
        get_origin(annotation) in (Union, types.UnionType)
        and len({*get_args(annotation)} - {type(None)}) > 1
    )


def type_name(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return a type as a reader of YAML would write it, such as `int > 0 | null`."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_name(item) for item in arguments))
    if origin is dict:
        return f"dict of {type_name(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}"
    if arguments:
        return " | ".join(str(item) for item in arguments)
    names: dict[Any, str] = {type(None): "null", SecretStr: "secret", Any: "any", JsonValue: "any"}
    name = (
        "section"
        if find_section(annotation)
        else names.get(annotation, getattr(annotation, "__name__", ""))
    )
    limits = [
        (sign, getattr(item, bound, None)) for item in metadata for bound, sign in BOUNDS.items()
    ]
    return name + ",".join(f" {sign} {limit:g}" for sign, limit in limits if limit is not None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "(as below)"
    return dump_yaml(to_jsonable_python(value), one_line=True)
