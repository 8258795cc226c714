"""Every strategy says in plain words why it picks and what its score and parts mean."""

import re
from dataclasses import replace

import pytest
from selection_pools import make_pool

from atgen_ray.selection import STRATEGIES, explain_strategy
from atgen_ray.selection.strategy import ANY_PART, FILLED

every_strategy = pytest.mark.parametrize("name", STRATEGIES)
# Parameters with which a strategy returns parts that it does not return by default.
OTHERWISE = {"hadas": {"batch_diversity": True}}


def find_parts(name: str, parameters: dict[str, object]) -> set[str]:
    pool = make_pool(40, labeled=8)
    found = set()
    for each in (pool, replace(pool, labeled=frozenset())):
        table = each.select(name, 6, parameters)
        found |= {part for row in table["parts"].to_pylist() for part, _ in row}
    return found - {FILLED}


@every_strategy
def test_every_strategy_explains_itself_in_sentences(name: str) -> None:
    strategy = STRATEGIES[name]
    assert explain_strategy(name) is strategy
    assert strategy.title[0].isupper()
    assert strategy.title != name
    assert len(strategy.why.split()) >= 10
    for text in (strategy.why, strategy.score, *strategy.parts.values()):
        assert len(text.split()) >= 4, text
        assert re.match(r"[A-Z1]", text), text
        assert text.endswith("."), text
        assert "_" not in text, text
    assert not set(strategy.titles) - set(strategy.parts)


@every_strategy
def test_every_part_that_a_strategy_returns_is_explained_and_no_other(name: str) -> None:
    strategy = STRATEGIES[name]
    found = find_parts(name, {}) | find_parts(name, OTHERWISE.get(name, {}))
    if ANY_PART in strategy.parts:
        assert found
    else:
        assert found == set(strategy.parts)
    for part in found:
        assert strategy.name_part(part)
        assert strategy.explain_part(part) != "A part of the score, as the strategy defines it."


def test_a_strategy_that_is_not_installed_here_is_explained_in_general() -> None:
    found = explain_strategy("of-another-machine")
    assert "which is not installed here" in found.why
    assert found.order_parts({"b", "a"}) == ["a", "b"]
    assert found.explain_part("a") == "A part of the score, as the strategy defines it."
    assert found.explain_part(FILLED).startswith("1: the strategy could not rank")
