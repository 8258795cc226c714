"""Form of a new run: its fields are made from the configuration's models, and further keys are
entered as YAML.

The steps hold what a newcomer must say; all else that has a field is below MORE.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from atgen_ray.config import HumanAnnotatorConfig, RunConfig
from atgen_ray.config.annotators.people import GoldConfig
from atgen_ray.config.loading import list_presets, read_tree, renew_config
from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, PLUGIN
from atgen_ray.config.reference import EVERYDAY
from atgen_ray.core.errors import UserError
from atgen_ray.core.schema import describe_field, find_alternatives, find_section, type_name
from atgen_ray.core.strict_yaml import dump_yaml
from atgen_ray.selection import STRATEGIES

Kind = Literal["text", "lines", "integer", "number", "choice"]
LINES = {"prompt.system", "prompt.template", "annotator.guidelines"}
FILES = {"data.pool", "data.test", "data.target", "data.labeled"}
COLUMNS = {"data.input", "data.references"}

STEPS = {
    "data": ["data.pool"],
    "prompt": ["data.input", "data.references", "prompt.system", "prompt.template", "model.id"],
    "task": [
        "annotator.type",
        "annotator.model",
        "annotator.guidelines",
        "annotator.overlap",
        "annotator.price_per_label",
    ],
    "examples": ["selection.strategy"],
    "launch": [
        "name",
        "selection.count",
        "stopping.rounds",
        "stopping.labels",
        "stopping.dollars",
    ],
}
# Keys beside those of EVERYDAY that have a field below MORE, by its groups.
BESIDE = {"Data": ["data.subset", "data.pool_split", "data.test_split", "data.limit"]}
PEOPLE = "People"
HUMAN = "human"
# Keys of sections within those of people. An e-mail's are set in the file.
WITHIN = [
    *(f"annotator.gold.{name}" for name in GoldConfig.model_fields),
    "annotator.notice.webhook",
    "annotator.notice.service",
]
OWN = ("storage", "database_url", "cache")  # of each service


class Task(NamedTuple):
    """What a run is to do: who labels, what that means, and what it costs."""

    name: str
    title: str
    meaning: str
    cost: str


TASKS = (
    Task(
        HUMAN,
        "People label",
        "You and people whom you invite write the answers on the pages of this service.",
        "It costs nothing, or what you pay for an answer.",
    ),
    Task(
        "model",
        "A model labels",
        "A larger model writes the answers by your guidelines; people can check them later.",
        "It costs what its provider asks for tokens, never more than the budget that you set.",
    ),
    Task(
        "dataset",
        "Benchmark with known answers",
        "The answers in your file are the labels: you learn how many labels a strategy saves.",
        "It costs nothing. It needs the column of the answers.",
    ),
)


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


def build_form(
    preset: str | None, tree: Mapping[str, Any] | None = None
) -> tuple[dict[str, list[FormField]], str]:
    """Return the fields by step, and below MORE by group, with the values of `preset` or of a
    configuration `tree`; and their further keys as YAML.

    Raises:
        UserError: there is no such preset.
    """
    values: dict[str, Any] = dict(tree or {})
    if preset is not None:
        if preset not in list_presets():
            raise UserError(
                f"preset {preset[:80]!r} is unknown, expected one of {', '.join(list_presets())}"
            )
        values = read_tree(preset)
    annotator = values.get("annotator")
    type = annotator.get("type") if isinstance(annotator, dict) else annotator
    fields = {
        # A model may have a setting of the same name that means another thing.
        group: [
            _build_field(key, _take(values, key) if type == HUMAN else None, HUMAN) for key in keys
        ]
        if group == PEOPLE
        else [_build_field(key, _take(values, key)) for key in keys]
        for group, keys in (STEPS | list_more()).items()
    }
    rest = {key: value for key, value in values.items() if value != {}}
    return fields, dump_yaml(rest) if rest else ""


def list_more() -> dict[str, list[str]]:
    """Return the keys below MORE by group: the rest of EVERYDAY, and every setting of people."""
    above = {key for keys in STEPS.values() for key in keys}
    groups = {group: [*keys, *BESIDE.get(group, [])] for group, keys in EVERYDAY.items()}
    people = [
        f"annotator.{name}"
        for name, field in HumanAnnotatorConfig.model_fields.items()
        if find_section(field.annotation) is None
    ]
    groups[PEOPLE] = [*people, *WITHIN]
    left = {group: [key for key in keys if key not in above] for group, keys in groups.items()}
    return {group: keys for group, keys in left.items() if keys}


def copy_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a run's configuration, as the journal has it, says beyond the defaults, under
    another name.
    """
    full = renew_config(dict(config))
    kept = _drop_defaults(full)
    return {"name": name} | {key: value for key, value in kept.items() if key not in ("name", *OWN)}


def _drop_defaults(full: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without its defaults; the types of its sections stay, by which they
    are told apart.
    """
    try:
        config = RunConfig.model_validate(full)
    except ValueError:  # of a version whose keys are others: the form shows it as it is
        return full
    kept = config.model_dump(mode="json", exclude={"database_url"}, exclude_defaults=True)
    _restore_types(kept, full)
    return kept


def _restore_types(kept: Any, full: Any) -> None:
    if isinstance(kept, dict) and isinstance(full, dict):
        for key, value in kept.items():
            _restore_types(value, full.get(key))
        if isinstance(full.get("type"), str):
            kept["type"] = full["type"]
    elif isinstance(kept, list) and isinstance(full, list):
        for one, other in zip(kept, full, strict=False):
            _restore_types(one, other)


def _build_field(key: str, value: Any, type: str | None = None) -> FormField:
    """Return the field of a setting; of a section of several types, that of `type` alone."""
    found, types = _find_fields(key)
    field = found[types.index(type)] if type else found[0]
    types = [type] if type else types
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
    *parents, last = key.split(".")
    models: list[tuple[str, type[BaseModel]]] = [("", RunConfig)]
    discriminator = None
    for parent in parents:
        models = [
            found
            for tag, model in models
            if parent in model.model_fields
            for found in _list_sections(tag, model.model_fields[parent])
        ]
        field = models and RunConfig.model_fields.get(parent)
        discriminator = field.discriminator if field else None
    plain = {
        tag: model.model_fields[last]
        for tag, model in models
        if last in model.model_fields and find_section(model.model_fields[last].annotation) is None
    }
    types = [] if last == discriminator else _name_types(tag for tag in plain if tag)
    return list(plain.values()), types


def _list_sections(tag: str, field: FieldInfo) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections that a field may be, each with its type."""
    if alternatives := find_alternatives(field):
        yield from alternatives.items()
    elif (section := find_section(field.annotation)) is not None:
        yield tag, section


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
