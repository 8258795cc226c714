"""What each threshold would send to an admin, and how reliable people are, from a run's answers."""

from helpers.human_desk import HumanDesk

from atgen_ray.annotation.human.lead.dispute_levels import measure_levels, weigh_levels
from atgen_ray.annotation.human.progress import measure_people, measure_reliability, measure_team
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.store.journal import Journal

CONFIG = HumanAnnotatorConfig()
WORDS = "river bank train apple cloud stone paper glass"


def write_answers(count: int) -> list[list[str]]:
    """Two answers to each of `count` examples that share most of their words, and little with those
    to others.
    """
    words = WORDS.split()
    return [
        [
            f"the {words[n % 8]} of {words[n // 8]} was seen again number {n}",
            f"the {words[n % 8]} of {words[n // 8]} was seen number {n}",
        ]
        for n in range(count)
    ]


def test_each_threshold_tells_what_it_sends_and_what_it_catches() -> None:
    found = weigh_levels(write_answers(45), CONFIG)
    assert found is not None
    assert (found["measure"], found["examples"], found["current"]) == ("chrf", 45, 0.25)
    sent = [each["sent"] for each in found["levels"]]
    caught = [each["caught"] for each in found["levels"]]
    assert sent == sorted(sent)
    assert caught == sorted(caught)
    (suggested,) = [each for each in found["levels"] if each["threshold"] == found["suggested"]]
    assert suggested["caught"] >= 0.95
    assert suggested["low"] <= suggested["sent"] <= suggested["high"]
    below = [each for each in found["levels"] if each["threshold"] < found["suggested"]]
    assert all(each["caught"] < 0.95 for each in below)


def test_few_examples_suggest_nothing_and_short_answers_have_no_degrees() -> None:
    few = weigh_levels([*write_answers(10), ["yes", "no"]], CONFIG)
    assert few is not None
    assert (few["suggested"], few["examples"], few["short"]) == (None, 10, 1)
    assert weigh_levels([["yes", "no"], ["alone"]], CONFIG) is None
    assert weigh_levels([], CONFIG) is None


def test_levels_and_people_of_a_run(journal: Journal) -> None:
    desk = HumanDesk(journal, 6, overlap=2)
    desk.publish_tasks()
    assert measure_levels(journal, desk.run) is None
    assert measure_people(journal, desk.run) == []
    texts = write_answers(6)
    for place, who in enumerate(("ann", "bea")):
        for task in desk.queue(who).lease(6):
            text = texts[int(task["id"][1:])][place]
            desk.queue(who).answer(f"{who}-{task['id']}", task["id"], "submitted", text)
    levels = measure_levels(journal, desk.run)
    assert levels is not None
    assert levels["examples"] == 6
    ann, bea = measure_team(journal, desk.run)["annotators"]
    assert ann["accuracy"] is None  # no answer is short
    assert 0.5 < ann["similarity"]["low"] <= ann["similarity"]["value"] <= ann["similarity"]["high"]
    assert ann["similarity"] == bea["similarity"]  # they only meet each other
    assert ann["edited"] == 1.0
    assert [each["annotator"] for each in measure_people(journal, desk.run)] == ["ann", "bea"]


def test_short_answers_tell_who_is_right_where_three_people_meet() -> None:
    answers = {
        f"e{n}": {"ann": "Yes.", "bea": "yes", "cid": "yes" if n % 2 else "no"} for n in range(40)
    }
    found = measure_reliability(answers, CONFIG)
    assert found["ann"]["accuracy"]["value"] > 0.9
    assert found["cid"]["accuracy"]["high"] < 0.75
    assert "similarity" not in found["ann"]
