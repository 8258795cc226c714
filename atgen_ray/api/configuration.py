"""What a call is given as its configuration, made into a `RunConfig`."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from atgen_ray.api.errors import without_traceback
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    from atgen_ray.config import RunConfig

# A YAML file, the name of a preset, keys and values, or a configuration that is checked already.
ConfigSource: TypeAlias = Union[str, PathLike[str], Mapping[str, Any], "RunConfig"]
# Values by dotted key, or strings `dotted.key=value` as on the command line.
Overrides: TypeAlias = Mapping[str, Any] | Sequence[str]
Location: TypeAlias = str | PathLike[str]


@without_traceback
def load_config(
    config: ConfigSource,
    *,
    overrides: Overrides = (),
    storage: Location | None = None,
    name: str | None = None,
    fork_from: str | None = None,
) -> "RunConfig":
    """Return the checked configuration of a run.

    Args:
        config: a YAML file, the name of a preset, a mapping of keys and values as they stand in the
            file, or a `RunConfig`.
        overrides: settings to change, by dotted key, as `{"stopping.rounds": 3}`; or strings as on
            the command line, as `["stopping.rounds=3"]`.
        storage: folder or URL that holds the runs; default: the configuration's, `./atgen-runs`.
        name: name of the run; default: the configuration's, or the name of its file.
        fork_from: RUN or RUN:ROUND whose labels the run takes over.

    Raises:
        UserError: one line for each mistake: the key, its value, what was expected.

    Example:
        config = load_config("demo", overrides={"selection.strategy": "random"})
        config.selection.count
    """
    loaded = resolve(config, overrides, storage=storage, name=name, fork_from=fork_from)
    check_files(loaded)
    return loaded


def resolve(
    config: ConfigSource, overrides: Overrides = (), labels: bool = True, **settings: Any
) -> "RunConfig":
    """Do as `load_config`, but let files be missing.

    `labels`: whether examples will be labelled; if not, annotators are not checked.
    """
    from atgen_ray.config import RunConfig
    from atgen_ray.config.loading import load_config as load

    tree = _dump(config) if isinstance(config, RunConfig) else config
    if isinstance(tree, PathLike):
        tree = Path(tree)
    if not isinstance(tree, str | Path | Mapping):
        raise UserError(
            f"config is {_show(tree)}, expected a YAML file, the name of a preset, a mapping of "
            f"keys and values, or a RunConfig"
        )
    if isinstance(overrides, str) or not isinstance(overrides, Mapping | Sequence):
        raise UserError(
            f"overrides is {_show(overrides)}, expected values by key, as {{'stopping.rounds': 3}}"
        )
    for key, value in settings.items():
        if value is not None and not isinstance(value, str | PathLike):
            raise UserError(f"{key} is {_show(value)}, expected a string")
    given = {key: None if value is None else str(value) for key, value in settings.items()}
    return load(tree, overrides, labels, **given)


def check_files(config: "RunConfig") -> None:
    """Check that the plain files that the data names are there. A missing file is reported at once:
    the preflight, which checks the rest, takes seconds.

    Raises:
        UserError: a file is missing; with the nearest name.
    """
    from atgen_ray.config.data import check_named_files

    check_named_files(config.data)


def _dump(config: "RunConfig") -> dict[str, Any]:
    """Return all keys and values; the secret stays a SecretStr. A URL that is not set is left out,
    as it may come from the environment.
    """
    tree = config.model_dump()
    if tree["database_url"] is None:
        del tree["database_url"]
    return tree


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
