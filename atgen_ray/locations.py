"""Where data and checkpoints live: package://PACKAGE/FILE becomes a local path, everything else stays as given."""

from importlib.util import find_spec
from pathlib import Path

from atgen_ray.errors import UserError

SCHEME = "package://"


def locate(location: str, key: str) -> str:
    """The local path behind package://PACKAGE/FILE; any other location unchanged.

    The package is found without being imported, so none of its code runs. `key` names the configuration key in
    the error.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    if not location.startswith(SCHEME):
        return location
    package, _, file = location.removeprefix(SCHEME).partition("/")
    # The running program is "__main__", which may have no specification.
    spec = find_spec(package) if package.isidentifier() and package != "__main__" else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{key} is {location[:200]!r}, but no package {package[:80]!r} is installed here")
    root = Path(spec.submodule_search_locations[0]).resolve()
    try:
        path = (root / file).resolve()
        found = path.is_relative_to(root) and path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        found = False
    if not found:
        raise UserError(f"{key} is {location[:200]!r}, but package '{package}' has no {file[:80]!r}")
    return str(path)
