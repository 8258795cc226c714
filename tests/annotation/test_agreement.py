"""Agreement of free texts, against sacrebleu's own numbers and by hand; and what follows from
answers.
"""

from collections import Counter
from typing import Any

import pytest
from sacrebleu.metrics import CHRF

from atgen_ray.annotation.human.agreement import (
    choose_measure,
    compare_texts,
    edit_similarity,
    find_consensus,
    find_threshold,
    measure_agreement,
)
from atgen_ray.annotation.human.resolution import HumanAnswer, resolve
from atgen_ray.config import HumanAnnotatorConfig


def test_two_texts_are_compared_in_three_ways() -> None:
    same = compare_texts("The  river\nrose.", "the river rose")
    assert same.exact == 1.0
    assert same.chrf < 1.0  # which looks at case
    other = compare_texts("the river rose", "the rivers rise")
    metric = CHRF()
    both = [metric.sentence_score("the river rose", ["the rivers rise"]).score]
    both.append(metric.sentence_score("the rivers rise", ["the river rose"]).score)
    assert other.chrf == pytest.approx(sum(both) / 200)
    assert other.edit == pytest.approx(1 - 2 / 15)
    assert compare_texts("a", "b")[:3] == (0.0, 0.0, 0.0)
    assert compare_texts("?", "!").exact == 0.0  # marks alone are not final punctuation
    assert compare_texts("C++", "C#").exact == 0.0


def test_edit_similarity_of_the_same_and_of_nothing() -> None:
    assert edit_similarity(" x ", "x") == edit_similarity("", "") == 1.0
    assert edit_similarity("", "abc") == 0.0


def test_short_answers_are_compared_as_a_whole_and_longer_ones_by_pieces() -> None:
    assert choose_measure(["relevant", "not relevant"], "auto") == "exact"
    assert choose_measure(["yes", "no, it says the contrary"], "auto") == "chrf"
    assert choose_measure(["yes", "no"], "edit") == "edit"
    assert find_threshold("chrf", None, "auto") == 0.25
    assert find_threshold("chrf", 0.4, "auto") == 0.4
    assert find_threshold("exact", 0.4, "auto") == 1.0
    assert find_threshold("edit", 0.4, "edit") == 0.4


def test_the_centre_is_nearest_to_all_others() -> None:
    assert find_consensus(["alone"], ["ann"], "edit", 0.9) == (0, 1.0, True)
    found = find_consensus(["aaaa", "aaab", "zzzz"], ["ann", "bea", "cid"], "edit", 0.7)
    assert found.centre in (0, 1)
    assert found.agreement == pytest.approx(0.25)
    assert found.agreed  # two of three
    assert not find_consensus(["aaaa", "aaab", "zzzz"], ["ann", "bea", "cid"], "edit", 0.8).agreed


def test_of_two_answers_neither_the_older_nor_a_person_is_preferred() -> None:
    people = ["ann", "bea"]
    chosen = Counter(
        people[find_consensus([f"{n} one", f"{n} two"], people, "edit", 0.1).centre]
        for n in range(200)
    )
    assert 70 < chosen["ann"] < 130
    texts = ["one text", "one test"]
    turned = find_consensus(texts[::-1], people[::-1], "edit", 0.1).centre
    assert turned == 1 - find_consensus(texts, people, "edit", 0.1).centre


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


def test_another_person_is_asked_while_answers_disagree_and_then_an_admin() -> None:
    config = HumanAnnotatorConfig(overlap=2, overlap_at_most=3)
    two = [submitted("yes"), submitted("no", "bea")]
    asked = resolve(two, 2, None, config, 3)
    assert (asked.state, asked.wanted) == ("open", 3)
    most = resolve([*two, submitted("No.", "cid")], 3, None, config, 3)
    assert (most.state, most.text.casefold().rstrip(".")) == ("answered", "no")
    assert resolve([*two, submitted("maybe", "cid")], 3, None, config, 3).state == "disputed"
    assert resolve([*two, SKIPPED, SKIPPED_TOO], 2, None, config, 3).state == "disputed"
    agreeing = resolve([submitted("yes"), submitted("Yes", "bea")], 2, None, config, 3)
    assert (agreeing.state, agreeing.wanted) == ("answered", 2)


def test_an_old_threshold_is_one_of_edit_similarity() -> None:
    old = HumanAnnotatorConfig.model_validate({"adjudicate_below": 0.9})
    assert (old.agreement, old.adjudicate_below) == ("edit", 0.9)
    assert HumanAnnotatorConfig().agreement == "auto"
    new = HumanAnnotatorConfig.model_validate({"adjudicate_below": 0.3, "agreement": "chrf"})
    assert (new.agreement, new.adjudicate_below) == ("chrf", 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap_at_most": 3}, "overlap is 1, expected 2 or more beside overlap_at_most"),
        ({"overlap": 3, "overlap_at_most": 2}, "overlap_at_most is 2, expected 3"),
    ],
)
def test_more_people_than_overlap_need_answers_that_can_disagree(
    settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HumanAnnotatorConfig.model_validate(settings)
