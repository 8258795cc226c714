"""Locations of data, checkpoints and outputs: package://PACKAGE/FILE becomes a local path, any
other location stays as given.
"""

import json
import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

from atgen_ray.core.errors import UserError

SCHEME = "package://"


def locate(location: str, key: str) -> str:
    """Return the local path of package://PACKAGE/FILE; return any other location unchanged.

    The package is found without being imported, so none of its code runs. It must be installed: a
    folder that merely lies on Python's path, as the working folder may, is no package.

    Raises:
        UserError: the package is not installed, or has no such file; the message names the
            configuration key `key`.
    """
    if not location.startswith(SCHEME):
        return location
    package, _, file = location.removeprefix(SCHEME).partition("/")
    root = _find_package(package) if package.isidentifier() else None
    if root is None:
        raise UserError(
            f"{key} is {location[:200]!r}, but no package {package[:80]!r} is installed here"
        )
    try:
        path = (root / file).resolve()
        found = path.is_relative_to(root) and path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        found = False
    if not found:
        raise UserError(
            f"{key} is {location[:200]!r}, but package '{package}' has no {file[:80]!r}"
        )
    return str(path)


def _find_package(package: str) -> Path | None:
    """Return the folder of an installed package: where its distribution keeps it, or the sources of
    an editable one; None if it is not installed.
    """
    # Most packages are called as their distributions are; the list of all takes a second to make.
    if (folder := _find_in_distribution(package, package)) is not None:
        return folder
    for name in dict.fromkeys(_list_packages(tuple(sys.path)).get(package, ())):
        if (folder := _find_in_distribution(package, name)) is not None:
            return folder
    return None


def _find_in_distribution(package: str, name: str) -> Path | None:
    try:
        installed = distribution(name)
    except PackageNotFoundError:  # also where it was uninstalled after the list was made
        return None
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
    """Return the distributions along Python's `path` by top-level package."""
    return {package: list(names) for package, names in packages_distributions().items()}


def _is_editable(direct_url: str | None) -> bool:
    if direct_url is None:
        return False
    tree = json.loads(direct_url)
    return isinstance(tree, dict) and bool(tree.get("dir_info", {}).get("editable"))


def check_folder(path: Path) -> None:
    """Raise UserError unless the folder of `path` exists; a mistyped path makes no folder."""
    folder = path.absolute().parent
    try:
        if not folder.exists():
            raise UserError(
                f"--output is '{path}', but there is no folder '{folder}': make it, or choose "
                f"another"
            )
    except OSError as error:  # a name that is too long
        raise UserError(
            f"--output is '{path}', which cannot be written: {error.strerror}"
        ) from None


def check_output(path: Path) -> None:
    """Raise UserError unless a file can be written at `path`; to be called before the work."""
    check_folder(path)
    parent = path.absolute().parent
    if (
        path.is_dir()
        or not parent.is_dir()
        or not os.access(path if path.exists() else parent, os.W_OK)
    ):
        raise UserError(
            f"--output is '{path}', expected a file that can be written, such as picks.jsonl"
        )
