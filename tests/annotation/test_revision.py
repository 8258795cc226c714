"""Answers that are opened again and labels that are corrected: the run's label, its money, its
history, and the rounds that had trained on it.
"""

import pytest
import sqlalchemy as sa
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.human.lead.adjudication import decide
from atgen_ray.annotation.human.revision import correct_label, list_revisions, reopen_tasks
from atgen_ray.annotation.human.task_store import TaskUnknownError
from atgen_ray.core.errors import UserError
from atgen_ray.store.events import STEP
from atgen_ray.store.journal import Journal
from atgen_ray.store.label_changes import (
    LABEL_CHANGES,
    count_stale_labels,
    describe_stale_labels,
    read_last_change,
)
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import annotations, totals


def answer_all(desk: HumanDesk, name: str = "ann") -> None:
    queue = desk.queue(name)
    for task in queue.lease(len(desk.texts)):
        queue.answer(f"first-{task['id']}", task["id"], "submitted", f"{name} on {task['id']}")


def labels_of(desk: HumanDesk) -> dict[str, tuple[str, str, float]]:
    found = [label for _, label in desk.journal.annotations(desk.run)]
    assert len({label.id for label in found}) == len(found)
    return {label.id: (label.text, label.annotator, label.dollars) for label in found}


def counted(desk: HumanDesk) -> dict[str, int]:
    """Labels by annotator as `totals` has them, which must be those of `annotations`."""
    sums = sa.select(totals.c.annotator, totals.c.labels).where(totals.c.run == desk.run)
    rows = sa.select(annotations.c.annotator, sa.func.count()).where(annotations.c.run == desk.run)
    with desk.journal.database.reading() as connection:
        kept = {name: int(count) for name, count in connection.execute(sums) if count}
        rows = rows.group_by(annotations.c.annotator)
        assert kept == {name: int(count) for name, count in connection.execute(rows)}
    return kept


def train(desk: HumanDesk, round: int, changes: int) -> None:
    lease = desk.journal.acquire(desk.run, ProcessIdentity("desk"), 600, takeover=True)
    desk.journal.append(lease, STEP, round, "annotation", {})
    desk.journal.append(lease, STEP, round, "training", {LABEL_CHANGES: changes})


def test_a_task_is_opened_again_and_its_label_stays_until_there_is_a_new_one(
    journal: Journal,
) -> None:
    desk = HumanDesk(journal, 2, price_per_label=0.5)
    desk.publish_tasks()
    answer_all(desk)
    assert len(desk.round().collect_labels()[0]) == 2
    assert reopen_tasks(journal, desk.run, ["e00", "e00"], "root", "Name the river.") == 1
    assert labels_of(desk)["e00"] == ("ann on e00", "human/ann", 0.5)
    assert desk.round().count_left() == 1  # a run in mid-round waits for it
    (task,) = desk.queue("ann").lease(2)
    assert (task["id"], task["draft"], task["note"]) == ("e00", "ann on e00", "Name the river.")
    desk.expire("e00", "ann")
    (other,) = desk.queue("bea").lease(2)  # or somebody else answers
    assert (other["id"], other["note"]) == ("e00", None)
    desk.queue("bea").answer("second-0", "e00", "submitted", "the Elbe rose")
    assert desk.round().count_left() == 0
    assert desk.round().collect_labels() == ([], [])
    assert labels_of(desk) == {
        "e00": ("the Elbe rose", "human/bea", 0.5),
        "e01": ("ann on e01", "human/ann", 0.5),
    }
    assert counted(desk) == {"human/ann": 1, "human/bea": 1}
    assert (read_balance(journal, desk.run).paid, read_balance(journal, desk.run).held) == (1.0, 0)
    history = list_revisions(journal, desk.run, "e00")
    assert [(each["kind"], each["by"], each["before"], each["after"]) for each in history] == [
        ("reopened", "root", "ann on e00", None),
        ("label", "bea", "ann on e00", "the Elbe rose"),
    ]
    assert [each["reason"] for each in history] == ["Name the river.", None]


def test_an_admin_corrects_a_label_in_any_state_once(journal: Journal) -> None:
    desk = HumanDesk(journal, 4, price_per_label=0.5)
    desk.publish_tasks()
    queue = desk.queue("ann")
    ids = [task["id"] for task in queue.lease(4)]
    for id_ in ids[:2]:
        queue.answer(f"key-{id_}", id_, "submitted", f"ann on {id_}")
    desk.round().collect_labels()
    queue.answer("key-e02", "e02", "submitted", "ann on e02")
    for id_, state in [("e00", "taken"), ("e02", "answered"), ("e03", "answered")]:
        for _ in range(2):  # the second time is a repetition
            assert (
                correct_label(journal, desk.run, id_, "root", "corrected", "a typing error")
                == state
            )
    kinds = [each["kind"] for each in list_revisions(journal, desk.run, "e00")]
    assert kinds == ["corrected", "label"]
    desk.round().collect_labels()
    assert labels_of(desk) == {
        "e00": ("corrected", "human/root", 0.5),
        "e01": ("ann on e01", "human/ann", 0.5),
        "e02": ("corrected", "human/root", 0.5),  # of the answer that was given
        "e03": ("corrected", "human/root", 0.0),
    }
    assert counted(desk) == {"human/ann": 1, "human/root": 3}
    assert read_balance(journal, desk.run).paid == 1.5
    (label,) = [each for _, each in journal.annotations(desk.run) if each.id == "e00"]
    assert label.provenance["answers"][0]["text"] == "ann on e00"
    assert label.provenance["decision"]["comment"] == "a typing error"
    with pytest.raises(UserError, match="text is empty"):
        correct_label(journal, desk.run, "e00", "root", " ", "")
    with pytest.raises(TaskUnknownError, match="has no task 'e99'"):
        reopen_tasks(journal, desk.run, ["e00", "e99"], "root", "")
    assert labels_of(desk)["e00"][0] == "corrected"
    assert desk.round().count_left() == 0


def test_what_was_given_up_gets_a_label_and_what_has_one_can_lose_it(journal: Journal) -> None:
    desk = HumanDesk(journal, 2, price_per_label=0.5)
    desk.publish_tasks()
    queue = desk.queue("ann")
    queue.lease(2)
    queue.answer("key-1", "e00", "flagged", "what is this?")
    queue.answer("key-2", "e01", "submitted", "ann on e01")
    decide(journal, desk.run, "e00", "root", "drop")
    desk.round().collect_labels()
    assert [letter.id for _, letter in journal.dead_letters(desk.run)] == ["e00"]
    assert correct_label(journal, desk.run, "e00", "root", "found after all", "") == "taken"
    assert journal.dead_letters(desk.run) == []
    reopen_tasks(journal, desk.run, ["e01"], "root", "is it useful?")
    queue.answer("key-3", "e01", "flagged", "it is not")
    assert decide(journal, desk.run, "e01", "root", "drop", comment="useless") == "buried"
    assert labels_of(desk) == {"e00": ("found after all", "human/root", 0.0)}
    assert counted(desk) == {"human/root": 1}
    (letter,) = [each for _, each in journal.dead_letters(desk.run)]
    assert (letter.id, letter.reason) == ("e01", "root dropped it (useless)")
    assert read_balance(journal, desk.run).paid == 0.5
    last = list_revisions(journal, desk.run, "e01")[-1]
    assert (last["kind"], last["before"], last["after"]) == ("label", "ann on e01", None)


def test_rounds_that_trained_on_the_old_label_are_marked(journal: Journal) -> None:
    desk = HumanDesk(journal, 2)
    desk.publish_tasks()
    answer_all(desk)
    desk.round().collect_labels()
    correct_label(journal, desk.run, "e00", "root", "before the training", "")
    train(desk, 1, read_last_change(journal, desk.run))
    assert count_stale_labels(journal, desk.run) == {}
    known = read_last_change(journal, desk.run)
    correct_label(journal, desk.run, "e00", "root", "after round 1", "")
    # The training of round 2 had read its labels before the change, and ended after it.
    train(desk, 2, known)
    correct_label(journal, desk.run, "e01", "root", "after round 2", "")
    train(desk, 3, read_last_change(journal, desk.run))
    assert count_stale_labels(journal, desk.run) == {1: 2, 2: 2}
    assert describe_stale_labels(journal, desk.run)[0] == (
        "2 labels changed after round 1 had trained on them"
    )


def test_a_change_that_is_cut_short_leaves_nothing(journal: Journal) -> None:
    """The label, its history and its totals are one transaction."""
    desk = HumanDesk(journal, 1)
    desk.publish_tasks()
    answer_all(desk)
    desk.round().collect_labels()
    broken = sa.event.listens_for(journal.database._writers, "before_cursor_execute")

    def stop(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("UPDATE tasks SET") and "state=" in statement:
            raise KeyboardInterrupt

    broken(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            correct_label(journal, desk.run, "e00", "root", "never", "")
    finally:
        sa.event.remove(journal.database._writers, "before_cursor_execute", stop)
    assert labels_of(desk)["e00"][0] == "ann on e00"
    assert list_revisions(journal, desk.run, "e00") == []
    assert counted(desk) == {"human/ann": 1}
