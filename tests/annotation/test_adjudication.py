"""Disputes: the order of answers, a third opinion within the budget, decisions taken back, and many
accepted at once.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.human.lead.adjudication import (
    accept_agreeing,
    ask_another,
    count_disputes,
    decide,
    list_disputes,
    undo_decision,
)
from atgen_ray.annotation.human.task_store import TaskConflictError
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import read_balance


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    yield journal
    journal.close()


def answer(desk: HumanDesk, who: str, text: str) -> None:
    """Somebody gives all tasks that are open to them the same answer."""
    for task in desk.queue(who).lease(20):
        desk.queue(who).answer(f"{who}-{task['id']}", task["id"], "submitted", text)


def open_disputes(journal: Journal, count: int = 1, **settings: Any) -> HumanDesk:
    """Tasks on whose answers two people disagree."""
    desk = HumanDesk(journal, count, **{"overlap": 2, "price_per_label": 0.5, **settings})
    desk.publish_tasks()
    answer(desk, "ann", "yes")
    answer(desk, "bea", "no")
    assert count_disputes(journal, desk.run) == count
    return desk


def test_neither_the_oldest_answer_nor_a_person_comes_first(journal: Journal) -> None:
    desk = open_disputes(journal, 20)
    found = list_disputes(journal, desk.run)
    first = Counter(each["answers"][0]["annotator"] for each in found)
    assert 4 <= first["ann"] <= 16
    assert (found[0]["measure"], found[0]["agreement"], found[0]["may_ask"]) == ("exact", 0.0, True)
    again = list_disputes(journal, desk.run, 5, 10)
    assert [each["id"] for each in again] == [each["id"] for each in found[10:15]]


def test_a_third_opinion_settles_by_the_majority_and_is_paid(journal: Journal) -> None:
    desk = open_disputes(journal)
    assert ask_another(journal, desk.run, "e00") == "open"
    assert read_balance(journal, desk.run).held == 1.5
    with pytest.raises(TaskConflictError, match="is open, expected one whose answers disagree"):
        ask_another(journal, desk.run, "e00")
    assert desk.queue("ann").lease() == []  # nobody answers twice
    answer(desk, "cid", "No.")
    (label,), _ = desk.round().collect_labels()
    assert label.text.casefold().rstrip(".") == "no"
    assert label.dollars == 1.5
    balance = read_balance(journal, desk.run)
    assert (balance.paid, balance.held) == (1.5, 0.0)


def test_no_opinion_is_asked_that_the_budget_does_not_pay(journal: Journal) -> None:
    desk = open_disputes(journal, stopping={"dollars": 1.2})
    with pytest.raises(TaskConflictError, match="would exceed the run's budget"):
        ask_another(journal, desk.run, "e00")
    assert count_disputes(journal, desk.run) == 1


def test_overlap_at_most_reserves_all_answers_and_pays_those_given(journal: Journal) -> None:
    desk = HumanDesk(journal, 2, overlap=2, overlap_at_most=3, price_per_label=0.5)
    desk.publish_tasks()
    assert read_balance(journal, desk.run).held == 3.0
    answer(desk, "ann", "yes")
    desk.queue("bea").lease(2)
    for id_, text in (("e00", "yes"), ("e01", "no")):
        desk.queue("bea").answer(f"key-{id_}", id_, "submitted", text)
    assert count_disputes(journal, desk.run) == 0
    assert [task["id"] for task in desk.queue("cid").lease(5)] == ["e01"]
    desk.queue("cid").answer("key-cid", "e01", "submitted", "maybe")
    assert [each["id"] for each in list_disputes(journal, desk.run)] == ["e01"]
    decide(journal, desk.run, "e01", "root", "label", "perhaps")
    labels, _ = desk.round().collect_labels()
    assert {label.id: label.dollars for label in labels} == {"e00": 1.0, "e01": 1.5}
    balance = read_balance(journal, desk.run)
    assert (balance.paid, balance.held) == (2.5, 0.0)


def test_a_decision_is_taken_back_until_the_run_has_it(journal: Journal) -> None:
    desk = open_disputes(journal)
    with pytest.raises(TaskConflictError, match="has no decision"):
        undo_decision(journal, desk.run, "e00", "root")
    decide(journal, desk.run, "e00", "root", "label", "yes")
    assert undo_decision(journal, desk.run, "e00", "root") == "disputed"
    assert count_disputes(journal, desk.run) == 1
    decide(journal, desk.run, "e00", "root", "drop", comment="no use")
    desk.round().collect_labels()
    with pytest.raises(TaskConflictError, match="the run has taken the decision"):
        undo_decision(journal, desk.run, "e00", "root")


def test_all_that_agree_by_a_lower_threshold_are_accepted_at_once(journal: Journal) -> None:
    desk = HumanDesk(journal, 3, overlap=2, agreement="edit", adjudicate_below=0.9)
    desk.publish_tasks()
    answer(desk, "ann", "the river rose")
    desk.queue("bea").lease(3)
    for id_, text in zip(desk.texts, ("the rivers rose", "a bank failed", "the"), strict=True):
        desk.queue("bea").answer(f"key-{id_}", id_, "submitted", text)
    assert count_disputes(journal, desk.run) == 2  # the first two words of e00 are near enough
    assert accept_agreeing(journal, desk.run, 0.2, "root") == ["e02"]
    assert count_disputes(journal, desk.run) == 1
    assert undo_decision(journal, desk.run, "e02", "root") == "disputed"
    (label, *_), _ = desk.round().collect_labels()
    assert label.id == "e00"


def test_what_somebody_flagged_is_neither_asked_again_nor_accepted(journal: Journal) -> None:
    desk = HumanDesk(journal, 1, overlap=2)
    desk.publish_tasks()
    answer(desk, "ann", "yes")
    desk.queue("bea").lease()
    desk.queue("bea").answer("key-bea", "e00", "flagged", "odd")
    (found,) = list_disputes(journal, desk.run)
    assert (found["agreement"], found["may_ask"]) == (None, False)
    assert accept_agreeing(journal, desk.run, 0.0, "root") == []
    with pytest.raises(TaskConflictError, match="expected one whose answers disagree"):
        ask_another(journal, desk.run, "e00")
