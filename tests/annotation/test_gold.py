"""Gold items: mixed in invisibly, never a label, a score for each person; and the quiz."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.human.gold import show_quiz
from atgen_ray.annotation.human.gold_items import check_gold, read_gold
from atgen_ray.annotation.human.lead.adjudication import count_disputes
from atgen_ray.annotation.human.progress import measure_progress, measure_team
from atgen_ray.annotation.human.task_store import TaskConflictError
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.errors import UserError
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import tasks


@pytest.fixture
def gold_file(tmp_path: Path) -> Path:
    """Ten gold items, whose right answer is `right N`, or `also N`."""
    file = tmp_path / "gold.jsonl"
    rows = [
        {"input": f"gold {n}", "text": f"{word} {n}", "explanation": f"because of {n}"}
        for n in range(10)
        for word in ("right", "also")
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def work(desk: HumanDesk, who: str, gold: str = "right", limit: int = 1000) -> list[dict[str, Any]]:
    """Somebody labels until nothing is left; gold items with `gold` and their number. The tasks."""
    done: list[dict[str, Any]] = []
    while (found := desk.queue(who).lease(1)) and len(done) < limit:
        (task,) = found
        known = re.fullmatch(r"gold (\d+)", task["input"])
        text = f"{gold} {known[1]}" if known else f"label of {task['id']}"
        desk.queue(who).answer(f"{who}-{task['id']}", task["id"], "submitted", text)
        done.append(task)
    return done


def test_gold_items_look_like_other_tasks_and_never_become_labels(
    journal: Journal, gold_file: Path
) -> None:
    desk = HumanDesk(journal, 12, gold={"file": str(gold_file), "share": 0.5}, price_per_label=0.5)
    assert desk.publish_tasks() == 12
    assert desk.publish_tasks() == 0  # nor gold items twice
    assert desk.round().count_left() == 12
    done = work(desk, "ann")
    gold = [task for task in done if task["input"].startswith("gold")]
    plain = [task for task in done if not task["input"].startswith("gold")]
    assert len(plain) == 12
    assert 2 <= len(gold) <= 10
    # An annotator sees the same keys, ids of the same form, and values of the same kind.
    assert {frozenset(task) for task in gold} == {frozenset(task) for task in plain}
    assert all(re.fullmatch(r"e\d\d", task["id"]) for task in gold)
    assert {task["round"] for task in gold} == {1}
    assert all(task["suggestion"]["source"] == "m" for task in gold)
    assert "gold" not in json.dumps([task | {"input": ""} for task in done])
    progress = measure_progress(journal, desk.run, "ann")
    assert (progress["total"], progress["done"]) == (12, 12)
    assert progress["own"]["submitted"] == len(done)
    labels, dead = desk.round().collect_labels()
    assert ({label.id for label in labels}, dead) == (set(desk.texts), [])
    assert sum(label.dollars for label in labels) == 6.0
    assert desk.round().count_left() == 0


def test_the_share_of_gold_items_is_that_of_each_person(journal: Journal, gold_file: Path) -> None:
    desk = HumanDesk(journal, 12, gold={"file": str(gold_file), "share": 0.1}, overlap=2)
    desk.publish_tasks()
    for who in ("ann", "bea"):
        found = [task["input"].startswith("gold") for task in work(desk, who)]
        assert sum(found) <= 0.5 * len(found)


def test_everybody_has_a_score_with_an_interval(journal: Journal, gold_file: Path) -> None:
    desk = HumanDesk(journal, 6, gold={"file": str(gold_file), "share": 0.8}, overlap=3)
    desk.publish_tasks()
    for who, gold in (("ann", "right"), ("bea", "also"), ("cid", "wrong")):
        work(desk, who, gold)
    team = {
        each["annotator"]: each["gold"] for each in measure_team(journal, desk.run)["annotators"]
    }
    assert team["ann"]["value"] == team["bea"]["value"] == 1.0
    assert team["cid"]["value"] == 0.0
    assert 0.0 < team["ann"]["low"] < 1.0 == team["ann"]["high"]
    assert team["ann"]["examples"] >= 2


def test_a_gold_item_that_is_flagged_or_skipped_disputes_nothing(
    journal: Journal, gold_file: Path
) -> None:
    desk = HumanDesk(journal, 1, gold={"file": str(gold_file), "share": 1.0})
    desk.publish_tasks()
    for who, verdict in (("ann", "flagged"), ("bea", "skipped"), ("cid", "skipped")):
        (task,) = desk.queue(who).lease(1)
        assert task["input"].startswith("gold")
        desk.queue(who).answer(f"{who}-key", task["id"], verdict, "odd")  # type: ignore[arg-type]
    assert count_disputes(journal, desk.run) == 0
    assert desk.round().collect_labels() == ([], [])


def test_the_quiz_comes_first_with_feedback_and_lets_those_in_who_pass(
    journal: Journal, gold_file: Path
) -> None:
    gold = {"file": str(gold_file), "share": 0.0, "quiz": 4, "pass_mark": 0.75}
    desk = HumanDesk(journal, 3, gold=gold)
    desk.publish_tasks()
    assert show_quiz(journal, desk.run, "ann")["passed"] is None
    done = work(desk, "bob", "wrong")
    assert len(done) == 4  # and nothing after it
    assert desk.queue("ann").look() != []
    failed = show_quiz(journal, desk.run, "bob")
    assert (failed["passed"], failed["right"], failed["answered"]) == (False, 0, 4)
    first = failed["answers"][0]
    assert first["agrees"] is False
    assert first["texts"][0].startswith("right")
    assert first["explanation"].startswith("because of")
    done = work(desk, "ann")
    assert [task["input"].startswith("gold") for task in done] == [True] * 4 + [False] * 3
    assert show_quiz(journal, desk.run, "ann")["passed"] is True
    with pytest.raises(TaskConflictError, match="an answer of the quiz is final"):
        desk.queue("ann").answer("again", done[0]["id"], "submitted", "now I know")
    with pytest.raises(TaskConflictError, match="an answer of the quiz is final"):
        desk.queue("ann").undo("undone", done[0]["id"])
    # The quiz was explained, so it is no measure of how reliable somebody is.
    assert [each["gold"] for each in measure_team(journal, desk.run)["annotators"]] == [None, None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "which holds no row, expected gold items"),
        ([{"input": "a"}], "row 1, expected texts under the names input and text"),
        ([{"input": "a", "text": "b"}, {"input": "a", "text": 3}], "row 2, expected texts"),
        ([{"input": "a", "text": "b"}], "gold.quiz is 2, expected no more than the 1 inputs"),
    ],
)
def test_a_file_of_gold_items_is_checked_before_the_run(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    file = tmp_path / "gold.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = HumanAnnotatorConfig.model_validate({"gold": {"file": str(file), "quiz": 2}})
    with pytest.raises(UserError, match=message):
        check_gold(config, "annotator")


def test_a_quiz_needs_a_file_and_a_pass_mark_needs_a_quiz(gold_file: Path) -> None:
    with pytest.raises(ValueError, match=r"expected 0 without gold\.file"):
        HumanAnnotatorConfig.model_validate({"gold": {"quiz": 2}})
    with pytest.raises(ValueError, match=r"expected 0 without gold\.quiz"):
        HumanAnnotatorConfig.model_validate({"gold": {"file": "x.csv", "pass_mark": 0.5}})
    assert read_gold(str(gold_file), "file")[3].texts == ("right 3", "also 3")


def test_questions_about_gold_items_use_their_index(tmp_path: Path) -> None:
    """At a hundred thousand tasks no query reads them all for a few gold items."""
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    query = sa.select(tasks.c.example_id).where((tasks.c.run == "r") & tasks.c.gold.is_not(None))
    with journal.database.reading() as connection:
        compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        plan = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {compiled}")).all()
    assert "gold_tasks" in str(plan)
    journal.close()
