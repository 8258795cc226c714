"""What drafts do: who sees one, what the comparison finds, and that people who are anchored are
found.
"""

import random

import pytest
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.human.draft_experiment import (
    Answer,
    choose_drafts,
    compare_halves,
    measure_drafts,
)
from atgen_ray.store.journal import Journal


def make_answers(
    pulls: dict[str, float], examples: int = 80, faster: float = 1.0, seed: int = 1
) -> list[Answer]:
    """Answers of people who keep a word of a draft that they see with the probability of `pulls`."""
    rng = random.Random(seed)
    answers = []
    for index in range(examples):
        draft = [rng.choice("abcdefgh") * 4 for _ in range(10)]
        for who, pull in pulls.items():
            shown = index % 2 == 0
            own = [rng.choice("abcdefgh") * 4 for _ in draft]
            if shown:
                own = [a if rng.random() < pull else b for a, b in zip(draft, own, strict=True)]
            seconds = 30.0 * rng.lognormvariate(0.0, 0.3) / (faster if shown else 1.0)
            answers.append(
                Answer(f"e{index:03d}", who, " ".join(own), seconds, " ".join(draft), shown)
            )
    return answers


def test_half_of_the_examples_show_their_draft_always_the_same() -> None:
    ids = [f"e{index}" for index in range(2_000)]
    drawn = [choose_drafts("experiment", "run", id_) for id_ in ids]
    assert drawn == [choose_drafts("experiment", "run", id_) for id_ in ids]
    assert set(drawn) == {"shown", "off"}
    assert 900 < drawn.count("shown") < 1_100
    others = [choose_drafts("experiment", "other", id_) for id_ in ids]
    assert 900 < sum(one == other for one, other in zip(drawn, others, strict=True)) < 1_100
    assert {choose_drafts("blind", "run", id_) for id_ in ids} == {"blind"}


def test_an_annotator_who_is_anchored_is_found_and_one_who_is_not_is_left_alone() -> None:
    found = compare_halves(make_answers({"ann": 0.6, "bea": 0.0}, faster=1.5))
    assert (found.shown, found.hidden) == (40, 40)
    effects = {effect.name: effect for effect in found.effects}
    assert effects["distance"].is_certain
    assert effects["distance"].high < 0
    assert effects["seconds"].low < 1 / 1.5 < effects["seconds"].high < 1
    assert effects["seconds"].ratio
    assert not effects["words"].is_certain
    ann, bea = found.people
    assert (ann.name, ann.is_certain, bea.name, bea.is_certain) == ("ann", True, "bea", False)


def test_nothing_is_found_where_drafts_do_nothing() -> None:
    certain = [
        effect.is_certain
        for seed in range(12)
        for effect in compare_halves(make_answers({"ann": 0.0}, seed=seed)).effects
    ]
    assert sum(certain) <= 6  # of 48, at 95 %


def test_the_share_of_each_label_of_a_closed_set_is_compared() -> None:
    answers = [
        Answer(f"e{index:03d}", "ann", "Yes" if shown or index % 3 else " no", 5.0, "yes", shown)
        for index in range(60)
        for shown in [index % 2 == 0]
    ]
    found = compare_halves(answers)
    labels = {effect.name: effect for effect in found.labels}
    assert labels.keys() == {"yes", "no"}
    assert labels["yes"].shown == 1.0
    assert labels["yes"].is_certain
    assert labels["no"].change == pytest.approx(-labels["yes"].change)


def test_little_is_said_of_few_answers() -> None:
    assert compare_halves([]).effects == ()
    assert compare_halves(make_answers({"ann": 0.5}, examples=12)).effects == ()
    alike = [Answer(f"e{n:02d}", "ann", "a", None, "a", n % 2 == 0) for n in range(40)]
    names = {effect.name: effect for effect in compare_halves(alike).effects}
    assert "seconds" not in names
    assert (names["distance"].low, names["distance"].high) == (0.0, 0.0)


def test_a_run_shows_drafts_for_one_half_and_measures_both(journal: Journal) -> None:
    desk = HumanDesk(journal, 40, drafts="experiment", settle_seconds=600.0)
    desk.publish_tasks()
    queue = desk.queue("ann")
    for number in range(40):
        (task,) = queue.lease()
        mode = choose_drafts("experiment", desk.run, task["id"])
        assert (task["suggestion"] is not None) == (mode == "shown")
        text = task["suggestion"]["text"] if task["suggestion"] else "something else"
        told = queue.answer(f"key-{number:04d}", task["id"], "submitted", text, 4.0)
        assert (told["suggestion"] is not None) == (mode == "shown"), "nor afterwards"
    found = measure_drafts(journal, desk.run)
    assert found is not None
    assert found.shown + found.hidden == 40
    unchanged = {effect.name: effect for effect in found.effects}["unchanged"]
    assert (unchanged.shown, unchanged.hidden) == (1.0, 0.0)
    assert measure_drafts(journal, HumanDesk(journal, 1).run) is None
