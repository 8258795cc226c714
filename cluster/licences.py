"""Licences of what is installed, by the rule in pyproject.toml, and the list that the images carry.

`python cluster/licences.py` fails with a line for each package whose licence is neither allowed nor
excepted with a reason; `--write` also writes cluster/licences.md anew.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "cluster" / "requirements-cpu.txt"
LIST = ROOT / "cluster" / "licences.md"
APART = ("atgen-ray", "torch")  # in the image, and not in its lock
HEAD = """# Licences of what the CPU image installs

Made by `make licences` from the metadata of the packages. The text of each licence, and each
NOTICE, is in the image in the `dist-info` folder of its package. The CUDA image adds vLLM and its
packages, and NVIDIA's libraries under NVIDIA's own licences. The base images have licences of their
own. Reasons for what is not permissive are in `pyproject.toml`, `tool.licences`.

| Name | Licence |
|---|---|
"""


def read_rule() -> dict[str, Any]:
    """Return `tool.licences` of pyproject.toml: `allow`, and `except` with a reason by package."""
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(tree["tool"]["licences"])


def normalize(name: str) -> str:
    """Return a package's name as indices spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def tell_licence(package: Distribution) -> str:
    """Return the licence by SPDX expression, else classifiers, else the free text's first line."""
    metadata: Any = package.metadata  # a message of `email`, as its type does not say
    expression = str(metadata.get("License-Expression", ""))
    classified = [
        value.rsplit(" :: ", 1)[1]
        for value in metadata.get_all("Classifier") or []
        if value.startswith("License :: ") and not value.endswith("OSI Approved")
    ]
    free = str(metadata.get("License", ""))
    return expression or "; ".join(classified) or free.strip().partition("\n")[0][:80] or "unknown"


def is_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Return whether every part of the licence is allowed; of alternatives one is enough."""
    known = {each.lower() for each in allowed}
    plain = licence.strip()
    if plain.lower() in known:
        return True
    for words, enough in ((("OR",), any), (("AND", ";"), all)):
        parts = split_outside(plain, words)
        if len(parts) > 1:
            return enough(is_allowed(part, known) for part in parts)
    return plain.startswith("(") and plain.endswith(")") and is_allowed(plain[1:-1], known)


def split_outside(text: str, words: tuple[str, ...]) -> list[str]:
    """Return the parts of `text` between `words` that stand outside of brackets."""
    parts, depth = [""], 0
    for piece in re.findall(r"[();]|[^\s();]+", text):
        depth += (piece == "(") - (piece == ")")
        if depth == 0 and piece in words:
            parts.append("")
        else:
            parts[-1] += piece if piece in "()" else f" {piece}"
    return parts


def find_refused(packages: Iterable[Distribution], rule: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each package whose licence is not allowed."""
    for package in packages:
        name, licence = normalize(package.metadata["Name"]), tell_licence(package)
        if name not in rule["except"] and not is_allowed(licence, rule["allow"]):
            yield (
                f"{name} has the licence {licence!r}, expected one of tool.licences.allow in "
                f"pyproject.toml, or a reason there under tool.licences.except"
            )


def list_image() -> list[str]:
    """Return the names of the packages of the CPU image."""
    locked = re.findall(r"^([\w.-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted({*map(normalize, locked), *APART})


def write_list() -> str:
    """Return the images' list. What is not installed here keeps the line that it had.

    Raises:
        SystemExit: a package is neither installed nor in the old list.
    """
    old = dict(re.findall(r"^\| ([\w.-]+) \| (.*) \|$", LIST.read_text("utf-8"), re.MULTILINE))
    former = {normalize(name): licence for name, licence in old.items()}
    rows = []
    for name in list_image():
        try:
            licence = tell_licence(distribution(name))
        except PackageNotFoundError:
            if name not in former:
                raise SystemExit(
                    f"{name} is not installed here: install 'atgen-ray[gcs]'"
                ) from None
            licence = former[name]
        if licence == "unknown":
            licence = read_rule()["except"][name]
        rows.append(f"| {name} | {licence} |\n")
    return HEAD + "".join(rows)


def main() -> None:
    """Check what is installed, and write the list if that is asked for."""
    refused = sorted(find_refused(distributions(), read_rule()))
    if "--write" in sys.argv[1:]:
        LIST.write_text(write_list(), encoding="utf-8")
    if refused:
        raise SystemExit("\n".join(refused))


if __name__ == "__main__":
    main()
