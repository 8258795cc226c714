"""Coverage-guided fuzzing of what reads files from strangers, with atheris (`pip install atheris`).

    python benchmarks/fuzz.py yaml|json|csv [-max_total_time=600] [other options of libFuzzer]
    [CORPUS]

Ends with the input that did it as soon as anything but a row, a value or one of our own errors
comes out. The same readers are fuzzed by hypothesis, for a moment, in tests/attack.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).parents[1] / "tests" / "attack"))
with atheris.instrument_imports(include=["atgen_ray", "json", "csv", "yaml"]):
    from test_datasets import assert_only_rows

    from atgen_ray.core.errors import UserError
    from atgen_ray.core.strict_yaml import parse_yaml


def read_yaml(content: bytes) -> None:
    with suppress(UserError):
        parse_yaml(content.decode("utf-8", "replace"), "configuration")


def read_as(suffix: str) -> Callable[[bytes], None]:
    path = Path(tempfile.mkdtemp(prefix="atgen-fuzz-"), f"any{suffix}")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        assert_only_rows(path)

    return read


def main() -> None:
    targets = {"yaml": read_yaml, "json": read_as(".jsonl"), "csv": read_as(".csv")}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(__doc__)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], targets[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
