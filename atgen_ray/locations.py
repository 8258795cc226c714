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
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{key} is '{location}', but no package '{package}' is installed here")
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root) or not path.exists():
        raise UserError(f"{key} is '{location}', but package '{package}' has no '{file}'")
    return str(path)
