"""Guidelines with versions, on both databases: who had which, remarks that become rules, answers
that are sent back, and what an annotating model is told.
"""

from pathlib import Path

import pytest
from helpers.annotation_desk import QUICK, Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.guidelines import (
    Guidelines,
    enter_guidelines,
    join_guidelines,
    list_guidelines,
)
from atgen_ray.annotation.human.lead.guideline_edits import (
    LONGEST,
    adopt_remark,
    close_remark,
    count_outdated,
    edit_guidelines,
    list_outdated,
    list_remarks,
    remark,
    send_back,
)
from atgen_ray.annotation.human.task_store import TaskConflictError, TaskUnknownError
from atgen_ray.annotation.registry import build_remote
from atgen_ray.config import RouterConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.store.journal import Journal


@pytest.fixture
def desk(journal: Journal) -> HumanDesk:
    desk = HumanDesk(journal, 4, guidelines="One sentence.", settle_seconds=600.0)
    desk.publish_tasks()
    return desk


def answer(desk: HumanDesk, who: str, text: str, guidelines: int | None = None) -> str:
    """The next task of a person, answered; its id."""
    queue = desk.queue(who)
    (task,) = queue.lease()
    queue.answer(f"key-{who}-{task['id']}", task["id"], "submitted", text, 3.0, guidelines)
    return str(task["id"])


def versions(desk: HumanDesk) -> list[Guidelines]:
    with desk.journal.database.reading() as connection:
        return list_guidelines(connection, desk.run, "One sentence.")


def test_versions_count_up_and_nobodys_change_is_lost(desk: HumanDesk) -> None:
    assert [each.version for each in versions(desk)] == [1]
    assert edit_guidelines(desk.journal, desk.run, "lea", "Two sentences.", "longer", 1) == 2
    assert edit_guidelines(desk.journal, desk.run, "lea", "Two sentences.", "again", 1) == 2
    with pytest.raises(TaskConflictError, match="version 2 by now"):
        edit_guidelines(desk.journal, desk.run, "max", "Three.", "", 1)
    with pytest.raises(UserError, match="at most 50,000"):
        edit_guidelines(desk.journal, desk.run, "lea", "x" * (LONGEST + 1), "", 2)
    newest = versions(desk)[0]
    assert (newest.version, newest.text, newest.author) == (2, "Two sentences.", "lea")
    with pytest.raises(TaskUnknownError):
        edit_guidelines(desk.journal, "no-such-run", "lea", "x", "", 1)


def test_each_answer_knows_the_version_that_its_person_had(desk: HumanDesk) -> None:
    answer(desk, "ann", "before")
    edit_guidelines(desk.journal, desk.run, "lea", "Two.", "", 1)
    answer(desk, "ann", "had the old page", guidelines=1)
    answer(desk, "ann", "after")
    answer(desk, "ann", "from the future", guidelines=9)
    found = {each["text"]: each["guidelines"] for each in list_outdated(desk.journal, desk.run, 3)}
    expected = {"before": 1, "had the old page": 1, "after": 2, "from the future": 2}
    assert found == expected
    assert count_outdated(desk.journal, desk.run, 2) == 2
    desk.config = desk.config.model_copy(
        update={"annotator": desk.config.annotator.model_copy(update={"settle_seconds": 0.0})}
    )
    labels, _ = desk.round().collect_labels()
    told = {label.text: label.provenance["answers"][0]["guidelines"] for label in labels}
    assert told == expected


def test_answers_that_a_rule_contradicts_are_sent_back_in_one_action(desk: HumanDesk) -> None:
    hedged = answer(desk, "ann", "It MAY Größe 100% work.")
    other = answer(desk, "bea", "It works.")
    edit_guidelines(desk.journal, desk.run, "lea", "No hedges.", "", 1)
    new = answer(desk, "bea", "It may fail.")
    for search in ("may", "MAY", "Größe", "100%", ""):
        found = {each["id"] for each in list_outdated(desk.journal, desk.run, 2, search)}
        assert found == ({hedged} if search else {hedged, other})
    assert list_outdated(desk.journal, desk.run, 2, "m_y") == []
    assert send_back(desk.journal, desk.run, 2, "lea", "No hedges.", example_ids=[new]) == 0
    assert send_back(desk.journal, desk.run, 2, "lea", "No hedges.", "may") == 1
    assert send_back(desk.journal, desk.run, 2, "lea", "No hedges.", "may") == 0
    (task,) = [each for each in desk.queue("ann").history() if each["id"] == hedged]
    assert (task["state"], task["draft"]) == ("leased", "It MAY Größe 100% work.")
    assert count_outdated(desk.journal, desk.run, 2) == 1


def test_a_remark_becomes_a_rule(desk: HumanDesk) -> None:
    journal, run = desk.journal, desk.run
    (task,) = desk.queue("ann").lease()
    first = remark(journal, run, task["id"], "ann", "Name the data set.")
    assert remark(journal, run, task["id"], "ann", "Name the data set.") == first
    second = remark(journal, run, task["id"], "bea", "Whatever.")
    assert [(each["id"], each["input"]) for each in list_remarks(journal, run)] == [
        (first, task["input"]), (second, task["input"])
    ]  # fmt: skip
    with pytest.raises(TaskConflictError):
        adopt_remark(journal, run, first, "lea", "Name the data set.", 7)
    assert adopt_remark(journal, run, first, "lea", "Name the\ndata set.", 1) == 2
    assert adopt_remark(journal, run, first, "lea", "Name the data set.", 2) == 2
    close_remark(journal, run, second)
    close_remark(journal, run, second)
    assert list_remarks(journal, run) == []
    assert {each["version"] for each in list_remarks(journal, run, waiting=False)} == {2, None}
    assert versions(desk)[0].text == "One sentence.\n\n- Name the data set.\n"
    assert desk.queue("ann").lease()[0]["id"] == task["id"], "a remark leaves the task in hand"
    third = remark(journal, run, task["id"], "ann", "And the year.")
    adopt_remark(journal, run, third, "lea", "And the year.", 2)
    assert versions(desk)[0].text.endswith("- Name the data set.\n- And the year.\n")
    with pytest.raises(TaskUnknownError):
        close_remark(journal, run, third + 100)
    with pytest.raises(TaskUnknownError):
        remark(journal, run, "no-such-task", "ann", "x")


def test_models_are_told_the_newest_version() -> None:
    newest = Guidelines(2, "New.")
    assert join_guidelines("Own.", "Own.", None) == "Own."
    assert join_guidelines("One. ", "One.", newest) == join_guidelines("", "x", newest) == "New."
    assert join_guidelines("Own.", "One.", newest) == "Own.\n\nNew."


def enter(desk: Desk, version: int, text: str) -> None:
    with desk.journal.run_transaction(desk.config.name) as connection:
        now = desk.journal.database.clock(connection)
        enter_guidelines(connection, desk.config.name, Guidelines(version, text, "", "lea", now))


def test_a_new_version_is_asked_from_the_next_round_on_and_pays_nothing_twice(
    provider: FakeProvider, tmp_path: Path
) -> None:
    texts = make_texts(6)
    desk = Desk(provider, tmp_path, configure(provider, "openai", "sync"), texts)
    ids = [*texts]

    def told(round: int) -> str:
        return desk.annotator(round)._writer.system

    labels, _ = desk.annotate(1, ids[:3])
    assert len(labels) == 3
    paid = len(provider.bills())
    enter(desk, 2, "Label it, and name the data set.")
    assert "data set" not in told(1), "the round goes on as it began"
    again, _ = desk.annotate(1, ids[:3])
    assert again == labels
    assert len(provider.bills()) == paid
    assert "data set" in told(2)
    more, _ = desk.annotate(2, ids[3:])
    assert {label.provenance.get("guidelines") for label in more.values()} == {2}
    assert {label.provenance.get("guidelines") for label in labels.values()} == {None}
    enter(desk, 3, "Something else.")
    assert "data set" in told(2)
    assert "Something else." in told(3)


def test_in_a_router_a_model_has_the_guidelines_of_the_people(
    provider: FakeProvider, tmp_path: Path
) -> None:
    tree = dump_config(
        configure(provider, "openai", "sync", guidelines="As people.", votes=2, temperature=0.7)
    )
    people = {"type": "human", "guidelines": "As people."}
    router = {"type": "router", "first": tree["annotator"], "then": people}
    config = parse_config(tree | {"annotator": router})
    desk = Desk(provider, tmp_path, config, make_texts(2))
    edit_guidelines(desk.journal, config.name, "lea", "Name the data set.", "", 1)
    assert isinstance(config.annotator, RouterConfig)
    first = build_remote(config.annotator.first, desk.site(), "annotator.first", QUICK)  # type: ignore[arg-type]
    assert "Name the data set." in first._writer.system
    assert "As people." not in first._writer.system
