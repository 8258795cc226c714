"""Check of a bill of materials (CycloneDX 1.6, JSON) against its schema: `python cluster/sbom.py
FILE`.

cyclonedx-py can check too, and takes half a minute for what takes a second here.
"""

import json
import sys
from pathlib import Path
from typing import Any

SCHEMAS = (
    "bom-1.6.SNAPSHOT.schema.json",
    "spdx.SNAPSHOT.schema.json",
    "jsf-0.82.SNAPSHOT.schema.json",
)


def find_mistakes(bill: Any) -> list[str]:
    """Return where `bill` departs from the schema, as `components/3/name: ...`."""
    import cyclonedx.schema
    import jsonschema_rs

    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    trees = [json.loads((folder / name).read_text(encoding="utf-8")) for name in SCHEMAS]
    base = trees[0]["$id"].rpartition("/")[0]  # names in the schema are relative to its own
    named = zip(SCHEMAS, trees, strict=True)
    registry = jsonschema_rs.Registry([(f"{base}/{name}", tree) for name, tree in named])
    validator = jsonschema_rs.Draft7Validator(trees[0], registry=registry)
    return [
        f"{'/'.join(map(str, error.instance_path))}: {error.message[:200]}"
        for error in validator.iter_errors(bill)
    ]


def main() -> None:
    """Print each mistake of the file, and end with status 1 if there is one."""
    bill = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if mistakes := find_mistakes(bill):
        raise SystemExit("\n".join(mistakes[:20]))
    print(f"{sys.argv[1]}: {len(bill['components'])} components")


if __name__ == "__main__":
    main()
