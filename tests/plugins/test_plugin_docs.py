"""The examples in docs/plugins.md are right: they are taken from there and used."""

import re
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from atgen_ray.annotation import AnnotatorPlugin
from atgen_ray.selection import Parameters, Strategy
from atgen_ray.testing import check_metric, check_strategy

TEXT = (Path(__file__).parents[2] / "docs/plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w+\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
FIRST = "import numpy as np\nfrom pydantic"


class NewWordsParameters(Parameters):
    """None."""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], object]:
    """Imports the block that begins with a line as a module, and gives an attribute of it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load_block(begin: str, name: str) -> object:
        (block,) = (block for block in BLOCKS if block.startswith(begin))
        module = f"of_the_docs_{name.lower()}"
        (tmp_path / f"{module}.py").write_text(block)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return getattr(import_module(module), name)

    return load_block


def test_the_strategy_has_30_lines_and_passes(load: Callable[[str, str], object]) -> None:
    strategy = load(FIRST, "FEW_WORDS")
    assert isinstance(strategy, Strategy)
    check_strategy(strategy)
    (block,) = (block for block in BLOCKS if block.startswith(FIRST))
    assert sum(bool(line) for line in block.splitlines()) <= 30
    (project,) = (block for block in BLOCKS if block.startswith("[build-system]"))
    (group,) = tomllib.loads(project)["project"]["entry-points"].items()
    assert group == ("atgen_ray.strategies", {strategy.name: "my_strategies:FEW_WORDS"})


def test_picks_that_depend_on_each_other_pass(load: Callable[[str, str], object]) -> None:
    select = load("import numpy as np\n\nfrom atgen_ray", "select_new_words")
    strategy = Strategy(
        "new_words",
        needs=frozenset({"texts"}),
        parameters=NewWordsParameters,
        select=select,  # type: ignore[arg-type]
        title="New words",
        why="The prompts hold words that no other pick has.",
        score="Number of new words; larger was picked first.",
        parts={"new": "Number of words that no pick before has."},
    )
    check_strategy(strategy)


def test_the_metric_passes(load: Callable[[str, str], object]) -> None:
    check_metric(load("from atgen_ray.evaluation", "SAME_LENGTH"))  # type: ignore[arg-type]


def test_the_annotator_is_one(load: Callable[[str, str], object]) -> None:
    found = load("from collections.abc import Sequence", "SHOUT")
    assert isinstance(found, AnnotatorPlugin)
