"""The queue of tasks on both databases: any order of leases, answers, replays, expiries and
takings.
"""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.human_desk import HumanDesk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from atgen_ray.annotation.human.lead.adjudication import count_disputes, decide, list_disputes
from atgen_ray.annotation.human.progress import measure_progress
from atgen_ray.annotation.human.queue import Queue
from atgen_ray.annotation.human.revision import correct_label, list_revisions, reopen_tasks
from atgen_ray.annotation.human.task_store import TaskConflictError, TaskUnknownError
from atgen_ray.annotation.human.waiting import list_waiting
from atgen_ray.store.events import STEP
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import assignees, assignments, receipts
from atgen_ray.store.tables import tasks as task_table

PEOPLE = ["ann", "bea", "cid"]
people = st.sampled_from(PEOPLE)
tasks = st.sampled_from(["e00", "e01", "e02"])
texts = st.sampled_from(["yes", "no, never", "draft of e00"])
keys = st.sampled_from(["key-0001", "key-0002", "key-0003", "key-0004"])


class Labelling(RuleBasedStateMachine):
    """People who do whatever they like, each request perhaps sent twice, beside a controller that
    dies and returns.
    """

    journal: Journal

    @initialize(overlap=st.integers(1, 2), skips=st.integers(1, 2))
    def open(self, overlap: int, skips: int) -> None:
        self.overlap = overlap
        self.desk = HumanDesk(
            self.journal,
            3,
            overlap=overlap,
            skips=skips,
            adjudicate_below=0.3,
            price_per_label=0.25,
        )
        assert self.desk.publish_tasks() == 3
        self.answered: dict[tuple[str, str], Any] = {}
        self.given: dict[tuple[str, str], str] = {}
        self.paid: dict[str, int] = {}  # answers that were paid for when the run took the label

    @rule(person=people, count=st.integers(1, 3))
    def lease(self, person: str, count: int) -> None:
        before = self.desk.queue(person).history()
        leased = self.desk.queue(person).lease(count)
        ids = [task["id"] for task in leased]
        assert len(ids) == len(set(ids)) <= count
        assert all(task["lease_seconds"] > 0 and not task["closed"] for task in leased)
        assert not {task["id"] for task in before if task["state"] != "leased"} & set(ids)
        for id_ in ids:
            live = [name for name in PEOPLE if self.holds(name, id_)]
            assert len(live) <= self.overlap

    @rule(person=people, id_=tasks, text=texts, revision=st.integers(0, 3))
    def draft(self, person: str, id_: str, text: str, revision: int) -> None:
        try:
            saved = self.desk.queue(person).save_draft(id_, text, revision)
        except TaskConflictError:
            return
        assert saved["revision"] >= revision
        assert saved["draft"] is not None

    @rule(
        person=people,
        id_=tasks,
        key=keys,
        text=texts,
        verdict=st.sampled_from(["submitted", "skipped", "flagged"]),
    )
    def answer(self, person: str, id_: str, key: str, text: str, verdict: Any) -> None:
        self.send(
            person, key, ("answer", id_, text, verdict), lambda q: q.answer(key, id_, verdict, text)
        )
        for task in self.desk.queue(person).history():
            if task["state"] == "submitted":
                self.given[person, task["id"]] = task["text"]

    @rule(person=people, id_=tasks, key=keys)
    def undo(self, person: str, id_: str, key: str) -> None:
        self.send(person, key, ("undo", id_), lambda q: q.undo(key, id_))

    def send(self, person: str, key: str, request: Any, act: Callable[[Any], Any]) -> None:
        """Twice, as a browser does that never saw the first answer."""
        before = self.answered.get((person, key))
        try:
            first = act(self.desk.queue(person))
        except TaskConflictError:
            assert before is None or before[0] != request
            return
        state = self.state()
        assert act(self.desk.queue(person)) == first
        assert self.state() == state
        if before is not None:
            assert before[0] == request
            assert {**before[1], "draft": None} == {**first, "draft": None}
        self.answered[person, key] = (request, first)

    @rule(person=people, id_=tasks)
    def expire(self, person: str, id_: str) -> None:
        self.desk.expire(id_, person)

    @rule(id_=tasks, verdict=st.sampled_from(["label", "drop", "reopen"]))
    def decide(self, id_: str, verdict: Any) -> None:
        disputed = {each["id"] for each in list_disputes(self.journal, self.desk.run)}
        try:
            decide(self.journal, self.desk.run, id_, "root", verdict, "so be it")
        except TaskConflictError:
            return
        assert id_ in disputed or verdict != "reopen"

    @rule(id_=tasks)
    def reopen(self, id_: str) -> None:
        reopen_tasks(self.journal, self.desk.run, [id_], "root", "once more")
        # A new key is a new answer, and an old one stands for what was done before.
        self.answered = {key: said for key, said in self.answered.items() if said[0][1] != id_}

    @rule(id_=tasks, text=texts)
    def correct(self, id_: str, text: str) -> None:
        assert correct_label(self.journal, self.desk.run, id_, "root", text, "") in (
            "answered",
            "taken",
        )

    @rule()
    def put_up_again(self) -> None:
        assert self.desk.publish_tasks() == 0

    @rule()
    def take(self) -> None:
        labels, dead = self.desk.round().collect_labels()
        ids = [label.id for label in labels] + [letter.id for letter in dead]
        assert not set(ids) & self.paid.keys()
        answers = self.count_answers()
        self.paid |= {id_: answers[id_] for id_ in ids}

    def count_answers(self) -> Counter[str]:
        return Counter(
            task["id"]
            for name in PEOPLE
            for task in self.desk.queue(name).history()
            if task["state"] == "submitted"
        )

    def holds(self, person: str, id_: str) -> bool:
        return any(
            t["id"] == id_ and t["lease_seconds"] > 0 for t in self.desk.queue(person).history()
        )

    def state(self) -> Any:
        work = [
            [(t["id"], t["state"], t["text"]) for t in self.desk.queue(name).history()]
            for name in PEOPLE
        ]
        return work, measure_progress(self.journal, self.desk.run, "ann")["tasks"]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "desk"):
            return
        run = self.desk.run
        labels = [label for _, label in self.journal.annotations(run)]
        letters = {letter.id for _, letter in self.journal.dead_letters(run)}
        ids = [label.id for label in labels]
        assert len(set(ids)) == len(ids)
        assert set(ids) | letters == self.paid.keys()
        assert not set(ids) & letters
        counts = measure_progress(self.journal, run, "ann")["tasks"]
        assert counts["taken"] <= len(ids)
        assert counts["buried"] <= len(letters)
        assert sum(counts.values()) == 3
        assert all(count <= self.overlap for count in self.count_answers().values())
        balance = read_balance(self.journal, run)
        assert balance.paid == 0.25 * sum(self.paid.values())
        assert balance.held == 0.25 * self.overlap * (3 - len(self.paid))


def test_any_schedule_of_people_and_controllers(journal: Journal) -> None:
    class Machine(Labelling):
        pass

    Machine.journal = journal
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=checks,
        ),
    )


def test_two_people_never_get_one_task_unless_overlap_asks(journal: Journal) -> None:
    for overlap in (1, 2):
        desk = HumanDesk(journal, 12, overlap=overlap)
        desk.publish_tasks()
        barrier = threading.Barrier(6)

        def work(
            name: str, desk: HumanDesk = desk, barrier: threading.Barrier = barrier
        ) -> list[str]:
            barrier.wait(30)
            return [task["id"] for task in desk.queue(name).lease(4)]

        with ThreadPoolExecutor(6) as pool:
            leased = list(pool.map(work, [f"person-{number}" for number in range(6)]))
        counts = Counter(id_ for ids in leased for id_ in ids)
        assert counts == dict.fromkeys(desk.texts, overlap)


def test_a_lease_that_expired_goes_to_another_and_the_text_stays(journal: Journal) -> None:
    desk = HumanDesk(journal, 1)
    desk.publish_tasks()
    ann, bea = desk.queue("ann"), desk.queue("bea")
    assert [task["id"] for task in ann.lease()] == ["e00"]
    assert bea.lease() == []
    desk.expire("e00", "ann")
    assert [task["id"] for task in bea.lease()] == ["e00"]
    with pytest.raises(TaskConflictError, match="expired, and others have taken it"):
        ann.answer("key-1", "e00", "submitted", "typed for an hour")
    assert ann.history()[0]["draft"] == "typed for an hour"
    desk.expire("e00", "bea")
    assert ann.answer("key-2", "e00", "submitted", "typed for an hour")["state"] == "submitted"
    assert (
        ann.answer("key-3", "e00", "submitted", "typed for an hour")["state"] == "submitted"
    )  # said before
    assert ann.answer("key-4", "e00", "submitted", "something else")["text"] == "something else"
    with pytest.raises(TaskConflictError, match="used for another request"):
        ann.answer("key-2", "e00", "submitted", "something else")


def test_an_older_draft_never_replaces_a_later_one(journal: Journal) -> None:
    desk = HumanDesk(journal, 1, drafts="blind")
    desk.publish_tasks()
    queue = desk.queue("ann")
    (task,) = queue.lease()
    assert (task["suggestion"], task["blind"]) == (None, True)
    shown = queue.save_draft("e00", "second", 2)
    assert shown["suggestion"]["text"] == "draft of e00"
    assert queue.save_draft("e00", "first", 1)["draft"] == "second"
    assert queue.lease()[0]["draft"] == "second"


def test_an_answer_can_be_changed_and_undone_until_the_run_trains_on_it(journal: Journal) -> None:
    desk = HumanDesk(journal, 1, price_per_label=0.5)
    desk.publish_tasks()
    queue = desk.queue("ann")
    queue.lease()
    queue.answer("key-1", "e00", "submitted", "wrong")
    undone = queue.undo("key-2", "e00")
    assert (undone["state"], undone["draft"], undone["text"]) == ("leased", "wrong", None)
    assert desk.round().collect_labels() == ([], [])
    queue.answer("key-3", "e00", "submitted", "right")
    (label,), _ = desk.round().collect_labels()
    assert (label.text, label.annotator, label.dollars) == ("right", "human/ann", 0.5)
    assert not queue.history()[0]["closed"]
    queue.answer("key-4", "e00", "submitted", "better")
    queue.undo("key-5", "e00")
    assert desk.round().count_left() == 1  # the run waits, and keeps the label it has meanwhile
    assert [each.text for _, each in journal.annotations(desk.run)] == ["better"]
    queue.answer("key-6", "e00", "submitted", "best")
    assert [each.text for _, each in journal.annotations(desk.run)] == ["best"]
    history = list_revisions(journal, desk.run, "e00")
    assert [(each["kind"], each["before"], each["after"]) for each in history] == [
        ("edited", "right", "better"),
        ("withdrawn", "wrong", None),  # twice within an hour
        ("label", "right", "best"),
    ]
    lease = journal.acquire(desk.run, ProcessIdentity("desk"), 600, takeover=True)
    journal.append(lease, STEP, 1, "annotation", {})
    assert queue.history()[0]["closed"]
    for change in (
        lambda: queue.undo("key-7", "e00"),
        lambda: queue.answer("key-8", "e00", "submitted", "too late"),
    ):
        with pytest.raises(TaskConflictError, match="has trained on the label of task 'e00'"):
            change()
    assert read_balance(journal, desk.run).paid == 0.5


def test_one_person_who_skips_everything_empties_no_round(journal: Journal) -> None:
    desk = HumanDesk(journal, 12)
    desk.publish_tasks()
    ann, bea = desk.queue("ann"), desk.queue("bea")
    for task in ann.lease(12):
        ann.answer(f"skip-{task['id']}", task["id"], "skipped", "not today")
    assert desk.round().collect_labels() == ([], [])
    assert desk.round().count_left() == 12
    assert ann.lease(12) == []
    assert [task["id"] for task in bea.lease(12)] == list(desk.texts)
    for id_ in desk.texts:
        bea.answer(f"done-{id_}", id_, "submitted", f"label of {id_}")
    labels, dead = desk.round().collect_labels()
    assert ([label.id for label in labels], dead) == (list(desk.texts), [])


@pytest.mark.parametrize("skips", [1, 2])
def test_a_task_that_more_than_skips_people_skip_waits_for_an_admin(
    journal: Journal, skips: int
) -> None:
    desk = HumanDesk(journal, 1, skips=skips)
    desk.publish_tasks()
    for number in range(skips + 1):
        queue = desk.queue(f"person-{number}")
        assert [task["id"] for task in queue.lease()] == ["e00"]
        queue.answer(f"key-{number}", "e00", "skipped", "no")
    assert desk.queue("another").lease() == []
    assert desk.round().collect_labels() == ([], [])
    assert count_disputes(journal, desk.run) == len(list_disputes(journal, desk.run)) == 1
    assert decide(journal, desk.run, "e00", "root", "reopen") == "open"
    assert count_disputes(journal, desk.run) == 0
    assert [task["id"] for task in desk.queue("person-0").lease()] == ["e00"]


def test_an_example_that_an_earlier_version_gave_up_is_open_again(journal: Journal) -> None:
    desk = HumanDesk(journal, 1)
    desk.publish_tasks()
    desk.queue("ann").lease()
    desk.queue("ann").answer("key-1", "e00", "skipped", "no")
    with journal.database.writing() as connection:
        connection.execute(
            sa.update(task_table).where(task_table.c.run == desk.run).values(state="dropped")
        )
    assert desk.round().collect_labels() == ([], [])
    assert [task["id"] for task in desk.queue("bea").lease()] == ["e00"]


def test_no_more_tasks_go_up_than_the_budget_pays_for(journal: Journal) -> None:
    desk = HumanDesk(journal, 5, overlap=2, price_per_label=0.5, stopping={"dollars": 3.5})
    assert desk.publish_tasks() == 3
    assert read_balance(journal, desk.run).held == 3.0
    (event,) = [event for event in journal.events(desk.run) if event.kind == "budget"]
    assert event.payload == {"limit": "run", "dollars": 3.5, "left": 2}


def test_what_is_not_there_is_said_to_be_unknown(journal: Journal) -> None:
    desk = HumanDesk(journal, 1)
    desk.publish_tasks()
    with pytest.raises(TaskUnknownError, match="has no task 'e99'"):
        desk.queue("ann").save_draft("e99", "x", 0)
    with pytest.raises(TaskUnknownError, match="is unknown"):
        Queue(journal, "nobody", "ann")
    with pytest.raises(TaskConflictError, match="not yours, expected one that you leased"):
        desk.queue("ann").answer("key-1", "e00", "submitted", "x")


def test_a_queue_is_not_emptied_by_somebody_who_only_prepares(journal: Journal) -> None:
    """One task in hand and two prepared; who has none takes a prepared one."""
    desk = HumanDesk(journal, 3)
    desk.publish_tasks()
    ann, bea = desk.queue("ann"), desk.queue("bea")
    assert [task["id"] for task in ann.lease(3, ahead=2)] == ["e00", "e01", "e02"]
    assert [task["id"] for task in ann.look()] == []
    assert [task["id"] for task in bea.lease(3, ahead=2)] == ["e01"]
    assert [task["id"] for task in ann.lease(3, ahead=2, hand="e01")] == ["e00", "e02"]
    assert [task["id"] for task in ann.lease(3, ahead=2, hand="e02")] == ["e02", "e00"]
    assert desk.queue("cid").lease(3, ahead=2) == []  # all are in somebody's hand
    assert ann.release(["e00", "e01", "e02"]) == 2
    assert [task["id"] for task in desk.queue("cid").lease(3, ahead=2)] == ["e00", "e02"]
    with pytest.raises(TaskConflictError, match="others work on task 'e00' now"):
        ann.take("e00")
    assert ann.take("e02")["state"] == "leased"  # it was only prepared for cid


def test_to_look_at_tasks_leases_none(journal: Journal) -> None:
    desk = HumanDesk(journal, 12, drafts="blind")
    desk.publish_tasks()
    ann = desk.queue("ann")
    seen, last = list[str](), None
    while found := ann.look(last):
        assert all(
            (task["state"], task["suggestion"], task["lease_seconds"]) == ("open", None, 0.0)
            for task in found
        )
        seen += [task["id"] for task in found]
        last = seen[-1]
    assert seen == list(desk.texts)
    with journal.database.reading() as connection:
        mine = sa.select(assignments).where(assignments.c.run == desk.run)
        assert connection.execute(mine).all() == []
    with pytest.raises(TaskConflictError, match="not yours"):
        ann.save_draft("e07", "typed", 1)
    assert ann.take("e07")["lease_seconds"] > 0
    assert ann.save_draft("e07", "typed", 1)["draft"] == "typed"


def test_tasks_kept_for_people_and_groups_come_first_and_to_nobody_else(journal: Journal) -> None:
    desk = HumanDesk(journal, 5)
    desk.publish_tasks()
    kept = [("e04", "ann"), ("e03", "@nurses"), ("e02", "bea")]
    with journal.database.writing() as connection:
        rows = [{"run": desk.run, "example_id": id_, "who": who} for id_, who in kept]
        connection.execute(sa.insert(assignees), rows)
    ann = Queue(journal, desk.run, "ann", ("nurses",))
    assert [task["id"] for task in ann.look()] == ["e03", "e04", "e00", "e01"]
    assert [task["id"] for task in desk.queue("cid").look()] == ["e00", "e01"]
    assert [task["id"] for task in ann.lease()] == ["e03"]
    with pytest.raises(TaskConflictError, match="task 'e02' is kept for other people"):
        ann.take("e02")
    assert [task["id"] for task in desk.queue("bea").lease(5)] == ["e02", "e00", "e01"]


def test_receipts_stay_few_and_small(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atgen_ray.annotation.human.receipts.RECEIPTS", 10)
    desk = HumanDesk(journal, 1)
    desk.publish_tasks()
    queue = desk.queue("ann")
    queue.lease()
    long = "x" * 50_000
    for number in range(20):
        queue.answer(f"submit-{number:02d}", "e00", "submitted", f"{long}{number}")
        queue.undo(f"undo-{number:02d}", "e00")
    with journal.database.reading() as connection:
        rows = connection.execute(sa.select(receipts).where(receipts.c.run == desk.run)).all()
    assert len(rows) == 10
    assert max(len(str(row.answer)) for row in rows) < 200
    assert len(list_revisions(journal, desk.run, "e00")) == 1
    again = queue.answer("submit-19", "e00", "submitted", f"{long}19")
    assert (again["state"], again["text"], again["note"]) == ("submitted", f"{long}19", None)
    with journal.database.writing() as connection:  # a day later
        connection.execute(sa.update(receipts).values(time=receipts.c.time - 90_000))
    queue.answer("submit-20", "e00", "submitted", "short")
    with journal.database.reading() as connection:
        count = sa.select(sa.func.count()).where(receipts.c.run == desk.run)
        assert connection.execute(count).scalar_one() == 1


def test_where_work_waits_is_told_by_run(journal: Journal) -> None:
    first, second, done = (HumanDesk(journal, count) for count in (3, 2, 1))
    for desk in (first, second, done):
        desk.publish_tasks()
    done.queue("ann").lease()
    done.queue("ann").answer("key-1", "e00", "submitted", "all")
    first.queue("ann").lease()
    with journal.database.writing() as connection:
        rows = [{"run": second.run, "example_id": id_, "who": "bea"} for id_ in second.texts]
        connection.execute(sa.insert(assignees), rows)
    mine = [first.run, second.run, done.run]
    waiting = {
        name: [
            (run.name, run.held, run.open, run.many)
            for run in list_waiting(journal, name)
            if run.name in mine
        ]
        for name in ("ann", "bea")
    }
    assert waiting == {
        "ann": [(first.run, 1, 2, False)],
        "bea": [(second.run, 0, 2, False), (first.run, 0, 2, False)],
    }
