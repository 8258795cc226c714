"""Every strategy says in plain words why it picks and what its score and parts mean.

That its texts are sentences, and that every part which it returns is explained, is part of the
contract in `atgen_ray.testing`.
"""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from atgen_ray.selection import STRATEGIES, Parameters, Scores, Strategy, explain_strategy
from atgen_ray.selection import strategies as package
from atgen_ray.selection.strategy import ANY_PART, FILLED
from atgen_ray.testing import check_strategy
from atgen_ray.testing.strategies import explains_itself, find_parts

# Parameters with which a strategy returns parts that it does not return by default.
OTHERWISE = {"hadas": {"batch_diversity": True}}


class MadeUpParameters(Parameters):
    """No parameters."""


def make_strategy(**texts: object) -> Strategy:
    known = {"title": "Made up", "why": "This is made up.", "score": "The score is made up."}

    def select(candidates, parameters, count):
        zeros = np.zeros(len(candidates.ids))
        return Scores(zeros, {"depth": zeros})

    return Strategy("made-up", frozenset(), MadeUpParameters, select, **(known | texts))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_text_is_missing_and_no_part_is_made_up(name: str) -> None:
    strategy = STRATEGIES[name]
    assert explain_strategy(name) is strategy
    assert len(strategy.why.split()) >= 10
    found = find_parts(strategy, {}) | find_parts(strategy, OTHERWISE.get(name, {}))
    if ANY_PART in strategy.parts:
        assert found
    else:
        assert found == set(strategy.parts)
    assert all(strategy.name_part(part) for part in found)


def test_every_strategy_in_the_folder_is_registered() -> None:
    for path in Path(str(package.__file__)).parent.glob("*.py"):
        module = import_module(f"{package.__name__}.{path.stem}".removesuffix(".__init__"))
        for found in vars(module).values():
            if isinstance(found, Strategy):
                assert STRATEGIES[found.name] is found


def test_a_strategy_without_texts_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="title"):
        Strategy("made-up", frozenset(), MadeUpParameters, lambda *_: Scores(np.zeros(1)))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ({"parts": {}}, "returned and not explained: .'depth'"),
        ({"why": "nll"}, "why: expected a sentence"),
        ({"parts": {"depth": "The depth_of it all."}}, "plain words"),
        ({"title": "made-up"}, "title"),
    ],
)
def test_poor_texts_are_found(texts: dict[str, object], match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        explains_itself(make_strategy(**texts), {})


def test_a_strategy_of_one_s_own_passes() -> None:
    check_strategy(make_strategy(parts={"depth": "How deep the example lies."}))


def test_a_strategy_that_is_not_installed_here_is_explained_in_general() -> None:
    found = explain_strategy("of-another-machine")
    assert "which is not installed here" in found.why
    assert found.order_parts({"b", "a"}) == ["a", "b"]
    assert found.explain_part("a") == "A part of the score, as the strategy defines it."
    assert found.explain_part(FILLED).startswith("1: the strategy could not rank")


def test_the_page_on_selection_tells_how_each_strategy_is_computed() -> None:
    page = (Path(__file__).parents[2] / "docs/selection.md").read_text()
    rows = {"block": "| by block", "statistics": "| with statistics"}
    told = {
        name: distribution
        for distribution, start in rows.items()
        for line in page.splitlines()
        if line.startswith(start)
        for name in line.split("|")[2].replace("`", "").replace(" ", "").split(",")
    }
    found = {
        name: strategy.distribution_with(strategy.parameters())
        for name, strategy in STRATEGIES.items()
    }
    assert told == {name: each for name, each in found.items() if each != "parts"}


def test_a_share_of_the_most_uncertain_is_no_matter_of_one_block() -> None:
    nsp = STRATEGIES["nsp"]
    guarded = nsp.parameters.model_validate({"guard": {"top_share": 0.2}})
    assert nsp.distribution_with(guarded) == "statistics"
