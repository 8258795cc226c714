"""Where data and checkpoints live: package://PACKAGE/FILE becomes a local path, everything else stays as given."""

import json
import re
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from atgen_ray.errors import UserError, nearest

if TYPE_CHECKING:
    from atgen_ray.config import DataConfig

SCHEME = "package://"
FILES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq", ".arrow"}
_MAGIC = re.compile(r"[*?\[]")


def locate(location: str, key: str) -> str:
    """The local path behind package://PACKAGE/FILE; any other location unchanged.

    The package is found without being imported, so none of its code runs. It must be installed: a folder that merely
    lies on Python's path, as the working folder may, is no package. `key` names the configuration key in the error.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    if not location.startswith(SCHEME):
        return location
    package, _, file = location.removeprefix(SCHEME).partition("/")
    root = _find_package(package) if package.isidentifier() else None
    if root is None:
        raise UserError(f"{key} is {location[:200]!r}, but no package {package[:80]!r} is installed here")
    try:
        path = (root / file).resolve()
        found = path.is_relative_to(root) and path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        found = False
    if not found:
        raise UserError(f"{key} is {location[:200]!r}, but package '{package}' has no {file[:80]!r}")
    return str(path)


def check_named_files(data: "DataConfig") -> None:
    """Nothing, where each plain file name among data.pool and data.test is that of a file.

    Raises:
        UserError: with a line for each that is not, and the nearest file beside it.
    """
    lines = []
    for key, location in (("data.pool", data.pool), ("data.test", data.test)):
        if data.path is not None or location is None or Path(location).suffix not in FILES or "://" in location:
            continue
        path = Path(location).expanduser()
        if _MAGIC.search(location) or path.exists() or not path.parent.is_dir():
            continue  # the reader has the words for other mistakes
        beside = [each.name for each in path.parent.iterdir() if each.suffix in FILES]
        hint = nearest(path.name, beside) if beside else ""
        lines.append(f"{key} is {location[:200]!r}, expected an existing file{hint}")
    if lines:
        raise UserError("\n".join(lines))


def _find_package(package: str) -> Path | None:
    """The folder of an installed package: where its distribution keeps it, or the sources of an editable one."""
    for name in dict.fromkeys(_list_packages(tuple(sys.path)).get(package, ())):
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # uninstalled since the list was made
            continue
        folder = Path(str(installed.locate_file(package)))
        if folder.is_dir():
            return folder.resolve()
        if _is_editable(installed.read_text("direct_url.json")):
            spec = find_spec(package)
            if spec is not None and spec.submodule_search_locations:
                return Path(spec.submodule_search_locations[0]).resolve()
    return None


@cache
def _list_packages(path: tuple[str, ...]) -> dict[str, list[str]]:
    """The distributions along Python's `path` that each top-level package comes from."""
    return {package: list(names) for package, names in packages_distributions().items()}


def _is_editable(direct_url: str | None) -> bool:
    if direct_url is None:
        return False
    tree = json.loads(direct_url)
    return isinstance(tree, dict) and bool(tree.get("dir_info", {}).get("editable"))
