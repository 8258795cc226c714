"""Agreement of free texts, against sacrebleu's own numbers and by hand; and what follows from
answers.
"""

from typing import Any

import pytest
from sacrebleu.metrics import CHRF

from atgen_ray.annotation.human.agreement import (
    compare_texts,
    edit_similarity,
    find_centre,
    measure_agreement,
)
from atgen_ray.annotation.human.resolution import HumanAnswer, resolve
from atgen_ray.config import HumanAnnotatorConfig


def test_two_texts_are_compared_in_three_ways() -> None:
    same = compare_texts("The  river\nrose", "the river rose")
    assert same.exact == 1.0
    assert same.chrf < 1.0  # which looks at case
    other = compare_texts("the river rose", "the rivers rise")
    metric = CHRF()
    both = [metric.sentence_score("the river rose", ["the rivers rise"]).score]
    both.append(metric.sentence_score("the rivers rise", ["the river rose"]).score)
    assert other.chrf == pytest.approx(sum(both) / 200)
    assert other.edit == pytest.approx(1 - 2 / 15)
    assert compare_texts("a", "b")[:3] == (0.0, 0.0, 0.0)


def test_edit_similarity_of_the_same_and_of_nothing() -> None:
    assert edit_similarity(" x ", "x") == edit_similarity("", "") == 1.0
    assert edit_similarity("", "abc") == 0.0


def test_the_centre_is_nearest_to_all_others() -> None:
    assert find_centre(["alone"]) == (0, 1.0)
    place, mean = find_centre(["aaaa", "aaab", "zzzz"])
    assert place == 0
    assert mean == pytest.approx(0.25)


def test_agreement_is_told_for_pairs_and_for_each_annotator() -> None:
    found = measure_agreement(
        {"x": {"ann": "a", "bea": "a"}, "y": {"ann": "a", "cid": "b"}, "z": {"ann": "only"}}
    )
    pairs = {tuple(row["annotators"]): (row["exact"], row["examples"]) for row in found["pairs"]}
    assert pairs == {("ann", "bea"): (1.0, 1), ("ann", "cid"): (0.0, 1)}
    people = {row["annotator"]: (row["exact"], row["examples"]) for row in found["annotators"]}
    assert people == {"ann": (0.5, 2), "bea": (1.0, 1), "cid": (0.0, 1)}
    assert measure_agreement({}) == {"pairs": [], "annotators": []}


def submitted(text: str, who: str = "ann") -> HumanAnswer:
    return HumanAnswer(who, "submitted", text, None)


SKIPPED, SKIPPED_TOO = (HumanAnswer(who, "skipped", None, "hard") for who in ("bea", "dan"))
FLAGGED = HumanAnswer("cid", "flagged", None, "odd")
DROP = {"verdict": "drop", "by": "root", "comment": "", "text": ""}


@pytest.mark.parametrize(
    ("answers", "wanted", "decision", "state", "text"),
    [
        ([], 1, None, "open", ""),
        ([submitted("a")], 1, None, "answered", "a"),
        ([submitted("a")], 2, None, "open", ""),
        ([submitted("same text"), submitted("same text", "bea")], 2, None, "answered", "same text"),
        ([submitted("same text"), submitted("quite other", "bea")], 2, None, "disputed", ""),
        ([submitted("a"), SKIPPED], 2, None, "open", ""),
        ([submitted("a"), SKIPPED, SKIPPED_TOO], 2, None, "answered", "a"),
        ([SKIPPED], 1, None, "open", ""),
        ([SKIPPED, SKIPPED_TOO], 1, None, "disputed", ""),
        ([submitted("a"), FLAGGED], 1, None, "disputed", ""),
        ([FLAGGED], 1, DROP, "dropped", ""),
        ([FLAGGED], 1, DROP | {"verdict": "label", "text": "so"}, "answered", "so"),
    ],
)
def test_what_becomes_of_a_task(
    answers: Any, wanted: int, decision: Any, state: str, text: str
) -> None:
    outcome = resolve(answers, wanted, decision, HumanAnnotatorConfig())
    assert (outcome.state, outcome.text) == (state, text)
