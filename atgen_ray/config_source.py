"""From a YAML file or preset and key=value overrides to a validated configuration, and back to text."""

import os
import types
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from atgen_ray.config import RunConfig
from atgen_ray.errors import UserError, nearest

PRESETS = files("atgen_ray") / "presets"


def list_presets() -> list[str]:
    """Names of the presets shipped with the package."""
    return sorted(item.name.removesuffix(".yaml") for item in PRESETS.iterdir() if item.name.endswith(".yaml"))


def load_config(source: str, overrides: Sequence[str] = (), **settings: str | None) -> RunConfig:
    """The configuration in `source` with `overrides` applied.

    Args:
        source: a YAML file, or the name of a preset.
        overrides: strings `dotted.key=value`; the value is read as YAML.
        settings: top-level keys set by options of the command line; None leaves them alone.

    Raises:
        UserError: a file that is not there, not YAML, or a key or value that is wrong.
    """
    tree = _read_tree(source)
    tree.setdefault("name", Path(source).stem.lower().replace("_", "-"))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"'{override}' is not an override, expected key=value as in stopping.rounds=3")
        _set(tree, key, _parse_yaml(text, f"the value of '{key}'"))
    if (url := database_url_from_environment()) is not None:
        tree.setdefault("database_url", url)
    tree |= {key: value for key, value in settings.items() if value is not None}
    return parse_config(tree)


def database_url_from_environment() -> SecretStr | None:
    """The journal's URL from ATGEN_DATABASE_URL, where a password is better kept than in a file."""
    url = os.environ.get("ATGEN_DATABASE_URL")
    return SecretStr(url) if url else None


def parse_config(tree: dict[str, Any]) -> RunConfig:
    """A validated configuration.

    Raises:
        UserError: one line for each mistake, naming the key, its value and the nearest valid choice.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(_explain(detail) for detail in error.errors())) from None


def dump_config(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as plain data, without its secrets."""
    return config.model_dump(mode="json", exclude={"database_url"})


def explain_config() -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and description of every setting, in the order of the tree."""
    yield from _walk(RunConfig, "")


def _read_tree(source: str) -> dict[str, Any]:
    path = Path(source)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"configuration '{source}' is not UTF-8 text: {error.reason}") from None
    elif source in list_presets():
        text = (PRESETS / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise UserError(f"'{source}' is neither a configuration file nor a preset{nearest(source, list_presets())}")
    tree = _parse_yaml(text, f"configuration '{source}'")
    if not isinstance(tree, dict):
        raise UserError(f"configuration '{source}' holds {type(tree).__name__}, expected keys and values")
    return tree


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if below is None:
            below = tree[parent] = {}
        if not isinstance(below, dict):
            raise UserError(f"'{key}' cannot be set: '{parent}' is {below!r}, not a section")
        tree = below
    tree[last] = value


def _explain(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        *parents, last = detail["loc"]
        section = _section(parents)
        return f"unknown key '{key}'" + (nearest(str(last), section.model_fields) if section else "")
    if detail["type"] == "missing":
        return f"key '{key}' is missing, expected {_describe(detail['loc'])}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key else message
    hint = ""
    if detail["type"] == "literal_error":
        choices = [choice.strip().strip("'") for choice in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
        hint = nearest(str(detail["input"]), choices)
    return f"{key} is {_shown(key, detail['input'])}, {message[0].lower()}{message[1:]}{hint}"


def _shown(key: str, value: Any) -> str:
    return "a value that is not shown" if key == "database_url" else repr(value)[:80]


def _section(path: Sequence[int | str]) -> type[BaseModel] | None:
    """The model of the section at `path`; None where the path leaves the tree of sections."""
    model: type[BaseModel] | None = RunConfig
    for part in path:
        if isinstance(part, int):
            continue
        if model is None or part not in model.model_fields:
            return None
        model = _model_in(model.model_fields[part].annotation)
    return model


def _describe(path: Sequence[int | str]) -> str:
    section = _section(path[:-1])
    description = section.model_fields[str(path[-1])].description if section else None
    return description or "a section"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as `Section`, `Section | None` or `list[Section]`."""
    candidates = get_args(annotation) or (annotation,)
    models = (item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))
    return next(models, None)


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        key = prefix + name
        section = _model_in(field.annotation)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        # A section that is there by default has no line of its own, its keys have.
        if not isinstance(default, BaseModel) and not (section and field.is_required()):
            shown = "(required)" if field.is_required() else _default(default)
            yield key, _type_name(field.annotation), shown, field.description or ""
        if section is not None:
            yield from _walk(section, f"{key}[]." if get_origin(field.annotation) is list else f"{key}.")


def _default(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if annotation is SecretStr:
        return "secret"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(item) for item in arguments)
    if arguments and origin is not None and not isinstance(origin, type):
        return " | ".join(str(item) for item in arguments)
    if origin in (list, dict):
        return f"{origin.__name__} of {', '.join(_type_name(item) for item in arguments)}"
    return getattr(annotation, "__name__", str(annotation))
