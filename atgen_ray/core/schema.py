"""Trees of settings: their base class, and the tree seen as dotted keys with a type, a default and
a meaning.
"""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from atgen_ray.core.strict_yaml import dump_yaml

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
MAY_CHANGE = "may change"
T = TypeVar("T")
# The type of a setting that a run may be given anew when it goes on: it says how the work is done,
# or when it ends, and not what is bought. Of a section, it holds for all settings below.
Changeable = Annotated[T, MAY_CHANGE]
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Section(BaseModel):
    """A part of the tree: unknown keys are mistakes, and so is `true` for a number or a number for
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
        """A section whose keys are all commented out is null in YAML."""
        return {} if tree is None else tree


def list_settings(model: type[BaseModel], prefix: str = "") -> Iterator[dict[str, str]]:
    """`key`, `type`, `default`, `description` of each field of the tree, in its order; a section
    before its fields.

    The fields of alternative sections follow under `key[type]`, but not those of alternatives
    within alternatives.
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


def describe_field(field: FieldInfo) -> str:
    """What the field means: its description, or that of the section which it is."""
    section = find_section(field.annotation)
    return field.description or " ".join((section.__doc__ or "").split() if section else "")


def find_section(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `Section`, `Section | None`, `list[Section]` or
    `dict[str, Section]`.
    """
    candidates = get_args(annotation) or (annotation,)
    return next(
        (item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)),
        None,
    )


def find_alternatives(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The sections that a field may be, by the value of the key that tells them apart; empty for
    any other field.
    """
    if not isinstance(field.discriminator, str):
        return {}
    sections = [item for item in get_args(field.annotation) if issubclass(item, BaseModel)]
    return {
        get_args(item.model_fields[field.discriminator].annotation)[0]: item for item in sections
    }


def may_change(field: FieldInfo) -> bool:
    """Whether the setting is `Changeable`."""
    return MAY_CHANGE in field.metadata


def is_union(annotation: Any) -> bool:
    """Whether there are alternatives beside null."""
    return (
        get_origin(annotation) in (Union, types.UnionType)
        and len({*get_args(annotation)} - {type(None)}) > 1
    )


def type_name(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in the words of a YAML file: `int > 0 | null`."""
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
