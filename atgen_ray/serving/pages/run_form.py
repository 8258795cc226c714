"""Form of a new run: its fields are made from the configuration's models, and further keys are
entered as YAML.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import list_presets, read_tree
from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, PLUGIN
from atgen_ray.config.reference import EVERYDAY
from atgen_ray.core.errors import UserError
from atgen_ray.core.schema import describe_field, find_alternatives, find_section, type_name
from atgen_ray.core.strict_yaml import dump_yaml
from atgen_ray.selection import STRATEGIES

Kind = Literal["text", "lines", "integer", "number", "choice"]
LINES = {"prompt.system", "prompt.template", "annotator.guidelines"}
FILES = {"data.pool", "data.test"}
COLUMNS = {"data.input", "data.references"}


@dataclass(frozen=True)
class FormField:
    """One setting as a field of the form."""

    key: str
    label: str
    kind: Kind
    help: str
    default: str  # holds if the field is left empty
    value: str
    choices: list[str]
    types: list[str]  # of annotators that have it; empty: all

    @property
    def id(self) -> str:
        """Return the id of the field's HTML element."""
        return self.key.replace(".", "-")


def build_form(preset: str | None) -> tuple[dict[str, list[FormField]], str]:
    """Return the fields by group with the values of `preset`, and the preset's further keys as
    YAML.

    Raises:
        UserError: there is no such preset.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in list_presets():
            raise UserError(
                f"preset {preset[:80]!r} is unknown, expected one of {', '.join(list_presets())}"
            )
        tree = read_tree(preset)
    fields = {
        group: [_build_field(key, _take(tree, key)) for key in keys]
        for group, keys in EVERYDAY.items()
    }
    rest = {key: value for key, value in tree.items() if value != {}}
    return fields, dump_yaml(rest) if rest else ""


def _build_field(key: str, value: Any) -> FormField:
    found, types = _find_fields(key)
    field = found[0]
    shown = RunConfig.model_fields["annotator"] if key == "annotator.type" else field
    choices = _list_choices(key, field)
    return FormField(
        key=key,
        label=_name(key),
        kind="choice" if choices else "lines" if key in LINES else _find_kind(field),
        help=describe_field(shown),
        default="" if field.is_required() else _write(field.get_default(call_default_factory=True)),
        value=_write(value),
        choices=choices,
        types=types,
    )


def _name(key: str) -> str:
    *parents, last = key.split(".")
    return (parents[-1] if last in ("id", "type") else last).replace("_", " ").capitalize()


def _find_fields(key: str) -> tuple[list[FieldInfo], list[str]]:
    """Return the fields that `key` may mean, and, for a section with several types, the types that
    have it.
    """
    model: Any = RunConfig
    *parents, last = key.split(".")
    for parent in parents:
        field = model.model_fields[parent]
        if alternatives := find_alternatives(field):
            plain = {
                tag: section.model_fields[last]
                for tag, section in alternatives.items()
                if last in section.model_fields
                and find_section(section.model_fields[last].annotation) is None
            }
            types = [] if last == field.discriminator else _name_types(plain)
            return list(plain.values()), types
        model = find_section(field.annotation)
    return [model.model_fields[last]], []


def _name_types(types: Iterable[str]) -> list[str]:
    """Types of annotators as a person chooses them: plug-ins by their names."""
    return [name for each in types for name in (ANNOTATOR_PLUGINS if each == PLUGIN else [each])]


def _list_choices(key: str, field: FieldInfo) -> list[str]:
    if key == "selection.strategy":
        return sorted(STRATEGIES)
    if key == "annotator.type":
        return _name_types(find_alternatives(RunConfig.model_fields["annotator"]))
    return (
        [str(choice) for choice in get_args(field.annotation)]
        if get_origin(field.annotation) is Literal
        else []
    )


def _find_kind(field: FieldInfo) -> Kind:
    name = type_name(field.annotation).partition(" ")[0]
    return {"int": "integer", "float": "number"}.get(name, "text")  # type: ignore[return-value]


def _take(tree: dict[str, Any], key: str) -> Any:
    """Remove a plain value from the tree and return it; None if there is none."""
    head, _, rest = key.partition(".")
    if rest:
        below = tree.get(head)
        if head == "annotator" and isinstance(below, str):
            below = tree[head] = {"type": below}
        return _take(below, rest) if isinstance(below, dict) else None
    return None if isinstance(tree.get(head), dict | list) else tree.pop(head, None)


def _write(value: Any) -> str:
    plain = to_jsonable_python(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else dump_yaml(plain, one_line=True)
