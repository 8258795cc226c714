"""Loading of a configuration from a YAML file or preset with key=value overrides, and dumping it as
plain data.

For example `load_config("demo", ["stopping.rounds=2"])` returns a validated RunConfig. Every
mistake becomes one line of a UserError.
"""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from atgen_ray.config import RunConfig
from atgen_ray.config.messages import format_validation_errors, show_value
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.strict_yaml import parse_yaml

PRESETS = files("atgen_ray") / "presets"
KEY = re.compile(r"[\w-]+(\.[\w-]+)*")
OVERRIDE = re.compile(rf"(?P<key>{KEY.pattern})=(?P<value>.*)", re.DOTALL)


def list_presets() -> list[str]:
    """Return the names of the presets shipped with the package."""
    return sorted(
        item.name.removesuffix(".yaml") for item in PRESETS.iterdir() if item.name.endswith(".yaml")
    )


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    labels: bool = True,
    **settings: str | None,
) -> RunConfig:
    """Return the configuration in `source` with `overrides` applied.

    Args:
        source: a YAML file, the name of a preset, or the keys and values themselves.
        overrides: strings `dotted.key=value`, whose value is read as YAML; or values by dotted key.
        labels: whether examples will be labelled; if not, annotators are not checked.
        settings: top-level keys set by options of the command line; None leaves a key alone.

    Raises:
        UserError: the file is missing or no YAML, or keys or values are wrong; one line for each
            mistake.
    """
    if isinstance(source, Mapping):
        tree = _to_plain(source)
    else:
        tree = read_tree(str(source))
        tree.setdefault("name", name_run(str(source)))
    if isinstance(overrides, Mapping):
        apply_values(tree, overrides)
    else:
        apply_overrides(tree, overrides)
    if (url := database_url_from_environment()) is not None:
        tree.setdefault("database_url", url)
    tree |= {key: value for key, value in settings.items() if value is not None}
    return parse_config(tree, labels)


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `dotted.key=value` of each of `overrides` in `tree`; the value is read as YAML.

    Raises:
        UserError: an override is not key=value, or its key leads through a value that is no
            section.
    """
    for override in overrides:
        match = OVERRIDE.fullmatch(override)
        if match is None:
            # An argument without a key may be a URL with a password, so it is not shown.
            shown = "an argument" if "://" in override else show_value("", override)
            raise UserError(
                f"{shown} is not an override, expected key=value as in stopping.rounds=3"
            )
        hint = f"; text with special characters goes in quotes: {match['key']}='\"...\"'"
        _set(tree, match["key"], parse_yaml(match["value"], f"the value of '{match['key']}'", hint))


def apply_values(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Set each of `values` in `tree` at its dotted key.

    Raises:
        UserError: a key that is no dotted name, or leads through something that is no section.
    """
    for key, value in values.items():
        if not isinstance(key, str) or KEY.fullmatch(key) is None:
            raise UserError(
                f"{show_value('', key)} is not a setting, expected a key as stopping.rounds"
            )
        _set(tree, key, _to_plain(value))


def read_tree(source: str) -> dict[str, Any]:
    """Return the keys and values of a YAML file or preset as they stand there.

    Raises:
        UserError: the file cannot be read, or holds no keys and values.
    """
    if source in list_presets() and not Path(source).is_file():
        text = (PRESETS / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        text = read_file(source)
    tree = parse_yaml(text, f"configuration '{source}'")
    if tree is None:
        raise UserError(f"configuration '{source}' is empty, expected keys and values")
    if not isinstance(tree, dict):
        raise UserError(
            f"configuration '{source}' holds one {type(tree).__name__}, expected keys and values"
        )
    return tree


def name_run(source: str) -> str:
    """Return the name of a run whose configuration has no name: its file's, made valid."""
    words = re.findall(r"[a-z0-9]+", Path(source).stem.lower())
    return "-".join(words)[:63] or "run"


def database_url_from_environment() -> SecretStr | None:
    """Return the journal's URL from ATGEN_DATABASE_URL, which keeps its password out of files."""
    url = os.environ.get("ATGEN_DATABASE_URL")
    return SecretStr(url) if url else None


def parse_config(tree: dict[str, Any], labels: bool = True) -> RunConfig:
    """Return the validated configuration; `labels` as in `load_config`.

    Raises:
        UserError: one line for each mistake, naming the key, its value and the nearest valid
            choice.
    """
    try:
        return RunConfig.model_validate(tree, context={"labels": labels})
    except ValidationError as error:
        raise UserError("\n".join(format_validation_errors(error, RunConfig))) from None


def dump_config(config: RunConfig) -> dict[str, Any]:
    """Return the resolved configuration as plain data, without its secrets."""
    return config.model_dump(mode="json", exclude={"database_url"})


def renew_config(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration as this version would write it: new keys have their defaults."""
    try:
        return dump_config(RunConfig.model_validate(tree))
    except (ValidationError, UserError):
        # It has keys that no longer exist, or a plug-in that is gone; the caller reports what
        # differs key by key.
        return tree


def read_file(source: str) -> str:
    """Return the text of a configuration file; raise UserError where it cannot be read."""
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = nearest(source, list_presets())
        raise UserError(
            f"{show_value('', source)} is neither a configuration file nor a preset{hint}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"configuration '{source}' is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except OSError as error:
        raise UserError(
            f"configuration {show_value('', source)} cannot be read: {error.strerror}"
        ) from None


def _to_plain(value: Any) -> Any:
    """Return a copy of `value` in the types that a YAML file gives; a path becomes its text."""
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the sections that lead to it."""
    *parents, last = key.split(".")
    for index, parent in enumerate(parents):
        section = tree.setdefault(parent, {})
        if section is None:  # in YAML a section whose keys are all commented out is null
            section = {}
            tree[parent] = section
        if not isinstance(section, dict):
            path = ".".join(parents[: index + 1])
            raise UserError(
                f"'{key}' cannot be set: '{path}' is {show_value(path, section)}, not a section"
            )
        tree = section
    tree[last] = value
