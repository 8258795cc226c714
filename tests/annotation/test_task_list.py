"""The task list: filters, orders, pages, bulk actions and their undoing, and reviews, on both
databases.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from helpers.human_desk import HumanDesk
from pydantic import ValidationError

from atgen_ray.annotation.human.lead.bulk import BulkActions, BulkRequest
from atgen_ray.annotation.human.lead.reviews import measure_reviews, review_answer
from atgen_ray.annotation.human.lead.task_filter import FilterError, TaskFilter
from atgen_ray.annotation.human.lead.task_list import TaskList
from atgen_ray.annotation.human.queue import Queue
from atgen_ray.annotation.human.round_tasks import TaskDraft
from atgen_ray.annotation.human.task_store import TaskConflictError, TaskUnknownError
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import POOL_SCHEMA
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import tokens

TEXTS = [
    "Recall improves by three points.",
    'Ärzte sagten: "100%_sicher"\nund\tmehr | weniger',
    "日本語のテキスト 😀",
    "back\\slash and a lone \ud800 surrogate",
    "recall again",
    "last",
]
FIELDS: list[dict[str, Any] | None] = [
    {"venue": "ACL", "year": 2019},
    {"venue": "acl workshop", "year": 2020},
    {"venue": "EMNLP", "year": "unknown"},
    {"venue": "ACL", "year": 2021.5, "odd name [x]": "yes"},
    {},
    None,
]


class Lead:
    """A run with six tasks, its people, and whoever leads them."""

    def __init__(self, journal: Journal, storage: Path, **settings: Any) -> None:
        self.desk = HumanDesk(journal, **{"count": 6, "settle_seconds": 600.0} | settings)
        self.journal = journal
        self.run = self.desk.run
        self.storage = str(storage)
        self.desk.texts = {f"e{at:02d}": text for at, text in enumerate(TEXTS)}
        offers = [
            TaskDraft(
                id_,
                text,
                None,
                None
                if at == 5
                else {
                    "strategy": "huds",
                    "rank": at,
                    "score": (at * 7 % 5) / 4,
                    "parts": {"uncertainty": at / 10},
                },
                None,
                fields=FIELDS[at],
            )
            for at, (id_, text) in enumerate(self.desk.texts.items())
        ]
        self.desk.round().publish_tasks(offers)
        self.keys = 0

    def answer(self, who: str, id_: str, text: str, verdict: Any = "submitted") -> None:
        self.keys += 1
        queue = self.desk.queue(who)
        wanted = next(task for task in queue.lease(20) if task["id"] == id_)
        queue.answer(f"key-{self.run}-{self.keys}"[-60:], wanted["id"], verdict, text, 5.0)

    def seen(self, only: str | None = None) -> TaskList:
        return TaskList(self.journal, self.storage, self.run, only)

    def ids(self, only: str | None = None, **filter: Any) -> list[str]:
        """The ids that a filter means, over pages of two."""
        asked = TaskFilter(**filter)
        found: list[str] = []
        after = None
        while True:
            page = self.seen(only).read_page(asked, after, 2)
            found += [task["id"] for task in page["tasks"]]
            after = page["next"]
            if after is None:
                assert sum(self.seen(only).count(asked).values()) >= len(found)
                return found

    def act(self, verb: Any, **request: Any) -> dict[str, Any]:
        if isinstance(request.get("filter"), dict):
            request["filter"] = TaskFilter(**request["filter"])
        return self.bulk.act(BulkRequest(verb, **request))

    @property
    def bulk(self) -> BulkActions:
        return BulkActions(self.journal, self.storage, self.run, "root")

    def task(self, id_: str) -> dict[str, Any]:
        return self.seen().read_task(id_)


@pytest.fixture
def lead(journal: Journal, tmp_path: Path) -> Callable[..., Lead]:
    return lambda **settings: Lead(journal, tmp_path, **settings)


def test_every_order_gives_every_task_once_over_pages(lead: Callable[..., Lead]) -> None:
    run = lead()
    everything = [f"e{at:02d}" for at in range(6)]
    assert run.ids() == everything
    assert run.ids(sort="random") == everything  # these ids are no hashes
    assert sorted(run.ids(sort="newest")) == everything
    # Their scores are 0, 0.5, 1, 0.25 and 0.75; the last task has none.
    assert run.ids(sort="score") == ["e00", "e03", "e01", "e04", "e02"]
    assert run.ids(sort="-score") == ["e02", "e04", "e01", "e03", "e00"]
    assert run.ids(sort="agreement") == []


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"q": "RECALL"}, ["e00", "e04"]),
        ({"q": "ärzte"}, ["e01"]),
        ({"q": "ÄRZTE"}, ["e01"]),
        ({"q": '"100%_sicher"\n'}, ["e01"]),
        ({"q": "100_"}, []),
        ({"q": "mehr | weniger"}, ["e01"]),
        ({"q": "本語"}, ["e02"]),
        ({"q": "😀"}, ["e02"]),
        ({"q": "back\\slash"}, ["e03"]),
        ({"q": "' OR 1=1 --"}, []),
        ({"field": ["venue=ACL"]}, ["e00", "e03"]),
        ({"field": ["venue!=ACL"]}, ["e01", "e02", "e04", "e05"]),
        ({"field": ["venue~acl"]}, ["e00", "e01", "e03"]),
        ({"field": ["year=2019"]}, ["e00"]),
        ({"field": ["year >= 2020"]}, ["e01", "e03"]),
        ({"field": ["year<=2020", "venue=ACL"]}, ["e00"]),
        ({"field": ["odd name [x]=yes"]}, ["e03"]),
        ({"score_from": 0.5, "score_to": 0.8}, ["e01", "e04"]),
        ({"part": "uncertainty", "part_from": 0.25}, ["e03", "e04"]),
        ({"part": "density", "part_from": 0.0}, []),
        ({"state": ["answered", "disputed"]}, []),
        ({"round": 2}, []),
        ({"person": "ann"}, []),
        ({"assigned": "nobody"}, [f"e{at:02d}" for at in range(6)]),
        ({"review": "none"}, [f"e{at:02d}" for at in range(6)]),
    ],
)
def test_a_filter_means_what_it_says(
    lead: Callable[..., Lead], filter: dict[str, Any], found: list[str]
) -> None:
    assert lead().ids(**filter) == found


@pytest.mark.parametrize(
    ("filter", "words"),
    [
        ({"field": ["venue"]}, "expected NAME=VALUE"),
        ({"field": ['a"b=1']}, "expected NAME=VALUE"),
        ({"field": ["year>=many"]}, "expected a number after >="),
        ({"field": ["year>=nan"]}, "expected a number after >="),
        ({"part_from": 1}, "expected part"),
        ({"sort": "similarity"}, "expected an example id in like"),
        ({"state": ["opened"]}, "'open'"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_a_wrong_filter_is_refused_in_one_line(filter: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskFilter(**filter)


def test_a_form_may_leave_fields_empty() -> None:
    empty = {"q": "", "round": "", "person": "", "state": [""], "soon": ""}
    assert TaskFilter.model_validate(empty) == TaskFilter()


def test_a_place_of_another_order_is_refused(lead: Callable[..., Lead]) -> None:
    run = lead()
    place = run.seen().read_page(TaskFilter(), None, 2)["next"]
    for after in (place, "x", "bnVsbA==", "ünlesbar"):
        with pytest.raises(FilterError, match="expected `next` of a page of the same order"):
            run.seen().read_page(TaskFilter(sort="newest"), after, 2)


def test_work_of_people_is_found_and_shown(lead: Callable[..., Lead]) -> None:
    run = lead(overlap=2, adjudicate_below=0.5)
    run.answer("ann", "e00", "It works.")
    run.answer("bob", "e00", "It works!")
    run.answer("ann", "e01", "Grüße 100%", "flagged")
    run.answer("bob", "e02", "no field of mine", "skipped")
    assert run.ids(person="ann", did="submitted") == ["e00"]
    assert run.ids(did="flagged") == ["e01"]
    assert run.ids(did="skipped", person="ann") == []
    assert run.ids(q="works!", within="answers") == ["e00"]
    assert run.ids(q="works!", within="answers", person="ann") == []
    assert run.ids(q="GRÜSSE", within="remarks") == []  # ß has no single capital
    assert run.ids(q="GRÜ", within="remarks") == ["e01"]
    assert run.ids(sort="agreement") == ["e00"]
    assert run.ids(agreement_to=0.5) == []
    assert run.seen().count(TaskFilter(round=1)) == {"answered": 1, "disputed": 1, "open": 4}
    found = run.task("e00")
    assert [each["annotator"] for each in found["answers"]] == ["ann", "bob"]
    assert found["agreement"] == pytest.approx(8 / 9)
    choices = run.seen().read_choices()
    assert choices["people"] == ["ann", "bob"]
    assert choices["rounds"] == [1]
    assert choices["parts"] == ["uncertainty"]
    assert choices["fields"]["venue"] == ["ACL", "EMNLP", "acl workshop"]


def test_an_annotator_sees_their_own_work_alone(lead: Callable[..., Lead]) -> None:
    run = lead(overlap=2)
    run.answer("ann", "e00", "It works.")
    run.answer("bob", "e00", "A secret of bob.")
    run.answer("bob", "e01", "Is this English?", "flagged")
    own = run.ids(only="ann")
    assert "e00" in own
    assert run.ids(only="ann", did="flagged") == []
    assert run.ids(only="ann", q="secret", within="answers") == []
    assert "secret" not in str(run.seen("ann").read_task("e00"))
    assert run.seen("ann").read_task("e00")["agreement"] is None
    for other in (
        {"person": "bob"},
        {"assigned": "bob"},
        {"sort": "agreement"},
        {"field": ["venue=ACL"]},
    ):
        with pytest.raises(FilterError, match="what only an admin may see"):
            run.ids(only="ann", **other)
    with pytest.raises(TaskUnknownError):
        run.seen("carl").read_task("e00")


def test_what_is_put_first_is_labelled_first(lead: Callable[..., Lead]) -> None:
    run = lead()
    assert run.act("next", ids=["e03", "e04"], expected=2) == {"number": 1, "tasks": 2}
    run.act("next", ids=["e05"])
    run.act("last", filter={"q": "recall improves"})
    order = ["e05", "e03", "e04", "e01", "e02", "e00"]
    assert run.ids() == order
    assert run.ids(soon=True) == ["e05", "e03", "e04"]
    assert [task["id"] for task in run.desk.queue("ann").lease(6)] == order
    run.act("usual", ids=["e00"])
    assert run.bulk.undo(2) == {"number": 2, "tasks": 1, "changed": 0}
    assert run.bulk.undo(3) == {"number": 3, "tasks": 0, "changed": 1}  # put back since
    assert run.ids() == ["e03", "e04", "e00", "e01", "e02", "e05"]
    with pytest.raises(TaskConflictError, match="undone already"):
        run.bulk.undo(2)
    with pytest.raises(TaskUnknownError):
        run.bulk.undo(9)
    assert [action["number"] for action in run.bulk.latest()] == [4, 3, 2, 1]


def test_tasks_are_kept_for_people_and_groups(lead: Callable[..., Lead], journal: Journal) -> None:
    run = lead()
    for name in ("ann", "bob"):
        Tokens(journal.database).create("annotator", name)
    with journal.database.writing() as connection:
        groups = {"member_of": ["experts"]}
        connection.execute(sa.update(tokens).where(tokens.c.label == "bob").values(groups))
    run.act("assign", ids=["e00", "e01"], who=["@experts"])
    run.act("assign", filter={"field": ["year>=2020"]}, who=["ann"])
    assert run.ids(assigned="@experts") == ["e00"]
    assert run.ids(assigned="ann") == ["e01", "e03"]
    assert run.ids(assigned="nobody") == ["e02", "e04", "e05"]
    assert run.bulk.undo(2)["tasks"] == 2
    assert run.task("e01")["assigned"] == ["@experts"]
    expert = Queue(journal, run.run, "bob", ("experts",))
    assert [task["id"] for task in expert.lease(2)] == ["e00", "e01"]
    assert {"e00", "e01"}.isdisjoint(task["id"] for task in run.desk.queue("ann").lease(6))
    assert run.act("assign", filter={}, who=[])["tasks"] == 2
    assert run.ids(assigned="nobody") == run.ids()
    with pytest.raises(UserError, match=r"who names 'an'.*did you mean 'ann'"):
        run.act("assign", ids=["e00"], who=["an"])


def test_dropped_tasks_come_back(lead: Callable[..., Lead]) -> None:
    run = lead()
    run.answer("ann", "e00", "It works.")
    assert run.act("drop", ids=["e00", "e01"], reason="no English")["tasks"] == 2
    assert run.act("drop", filter={"state": ["dropped"]})["tasks"] == 0
    assert [run.task(id_)["state"] for id_ in ("e00", "e01")] == ["dropped", "dropped"]
    run.act("drop", ids=["e02"])
    assert run.bulk.undo(1) == {"number": 1, "tasks": 2, "changed": 0}
    assert [run.task(f"e{at:02d}")["state"] for at in range(3)] == ["answered", "open", "dropped"]
    assert run.task("e01")["decision"] is None


def test_an_action_on_other_tasks_than_expected_does_nothing(lead: Callable[..., Lead]) -> None:
    run = lead()
    with pytest.raises(TaskConflictError, match="expected is 5, but 6 tasks are meant now"):
        run.act("drop", filter={}, expected=5)
    with pytest.raises(TaskUnknownError, match="'nowhere'"):
        run.act("drop", ids=["e00", "nowhere"])
    assert run.seen().count(TaskFilter()) == {"open": 6}
    assert run.bulk.latest() == []


def test_opened_tasks_are_answered_anew(lead: Callable[..., Lead]) -> None:
    run = lead()
    run.answer("ann", "e00", "It works.")
    assert run.act("reopen", filter={}, reason="The rule changed.")["tasks"] == 1
    assert run.task("e00")["state"] == "open"
    with pytest.raises(TaskConflictError, match="cannot be closed again"):
        run.bulk.undo(1)
    run.answer("ann", "e00", "It works well.")
    assert run.task("e00")["state"] == "answered"


def test_a_review_accepts_corrects_or_sends_back(lead: Callable[..., Lead]) -> None:
    run = lead(overlap=2, adjudicate_below=0.0)

    def review(id_: str, who: str, verdict: Any, **more: Any) -> str:
        return review_answer(run.journal, run.run, id_, "root", who, verdict, **more)

    for id_ in ("e00", "e01", "e02"):
        run.answer("ann", id_, f"ann on {id_}")
        run.answer("bob", id_, f"bob on {id_}")
    assert review("e00", "ann", "accepted", drawn=True) == "answered"
    review("e00", "ann", "accepted", drawn=True)  # sent twice
    assert run.ids(review="accepted") == ["e00"]
    review("e01", "ann", "corrected", text="the right label", drawn=True)
    assert run.task("e01")["decision"]["text"] == "the right label"
    review("e02", "bob", "returned", comment="Name the outcome.")
    assert run.task("e02")["state"] == "open"
    assert run.ids(review="returned") == ["e02"]
    work = {each["annotator"]: each for each in run.task("e02")["answers"]}
    assert (work["ann"]["state"], work["bob"]["state"]) == ("submitted", "leased")
    held = {task["id"]: task for task in run.desk.queue("bob").lease(20)}
    assert (held["e02"]["draft"], held["e02"]["note"]) == ("bob on e02", "Name the outcome.")
    assert held["e02"]["sent_back_by"] == "root"
    run.answer("bob", "e02", "a better one")
    # An answer that has changed since is to be reviewed again.
    assert "e02" in run.ids(review="none")
    assert run.ids(review="returned") == []
    with pytest.raises(TaskConflictError, match="no answer of 'carl'"):
        review("e00", "carl", "accepted")
    with pytest.raises(UserError, match="comment is empty"):
        review("e00", "bob", "returned")
    with pytest.raises(UserError, match="text is empty"):
        review("e00", "bob", "corrected", text=" ")


def test_shares_have_intervals_and_count_chance_alone(lead: Callable[..., Lead]) -> None:
    run = lead()
    for at in range(4):
        run.answer("ann", f"e{at:02d}", "It works.")
        verdict: Any = "accepted" if at != 1 else "returned"
        review_answer(
            run.journal, run.run, f"e{at:02d}", "root", "ann", verdict, "", "why", drawn=at < 3
        )
    (ann,) = measure_reviews(run.journal, run.run)
    counts = {name: ann[name] for name in ("reviewed", "accepted", "returned", "drawn")}
    assert counts == {"reviewed": 4, "accepted": 3, "returned": 1, "drawn": 3}
    # Wilson's interval for 2 of 3 by hand: centre (2/3 + z²/6) / (1 + z²/3), z = 1.96.
    assert ann["share"] == pytest.approx(2 / 3)
    assert (ann["low"], ann["high"]) == (
        pytest.approx(0.2077, abs=1e-3),
        pytest.approx(0.9385, abs=1e-3),
    )


def test_similar_tasks_come_in_the_order_of_their_embeddings(lead: Callable[..., Lead]) -> None:
    run = lead()
    with pytest.raises(TaskConflictError, match="has no embeddings"):
        run.ids(like="e00", sort="similarity")
    folder = RunFolder(run.storage, run.run)
    rows = [
        {"id": f"e{at:02d}", "row": at, "text": "", "content": f"c{at}", "duplicate_of": None}
        for at in range(7)  # one of them was not picked
    ]
    folder.write_table("pool.parquet", pa.Table.from_pylist(rows, POOL_SCHEMA))
    angles = np.array([0.0, 3.0, 0.2, 1.0, 0.1, 2.0, 0.05])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for part in (slice(0, 3), slice(3, 7)):
        found = [
            {"content": f"c{at}", "embedding": None if at == 5 else vectors[at].tolist()}
            for at in range(7)[part]
        ]
        table = pa.Table.from_pylist(found, EMBEDDING_SCHEMA)
        folder.write_table(f"embeddings/{part.start}.parquet", table)
    near = ["e00", "e04", "e02", "e03", "e01"]  # without the one that has no embedding
    assert run.ids(like="e00", sort="similarity") == near
    assert run.ids(like="e00", sort="similarity", q="recall") == ["e00", "e04"]
    assert run.ids(like="e00") == sorted(near)
    assert run.seen().find_next(TaskFilter(like="e00", sort="similarity"), "e02") == "e03"
    first = run.seen().read_page(TaskFilter(like="e00", sort="similarity"), None, 2)["tasks"]
    assert first[1]["similarity"] == pytest.approx(np.cos(0.1))
    with pytest.raises(TaskUnknownError):
        run.ids(like="nowhere")


def test_the_next_task_is_behind_one_that_fits_no_more(lead: Callable[..., Lead]) -> None:
    run = lead()
    run.answer("ann", "e02", "It works.")
    assert run.seen().find_next(TaskFilter(state=["open"]), "e02") == "e03"
    assert run.seen().find_next(TaskFilter(state=["open"]), "e05") is None
    assert run.seen().find_next(TaskFilter(sort="score"), "e05") is None


def test_an_export_has_every_task_with_its_answers(lead: Callable[..., Lead]) -> None:
    run = lead()
    run.answer("ann", "e00", "It works.")
    rows = list(run.seen().export(TaskFilter()))
    assert [row["id"] for row in rows] == run.ids()
    assert rows[0]["answers"][0]["text"] == "It works."
    assert rows[1]["answers"] == [] or rows[1]["answers"][0]["state"] == "leased"
