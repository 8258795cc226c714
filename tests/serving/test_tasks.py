"""The routes of tasks over HTTP: who may do what, refusals, replays, disputes, imports. Everything
real but Serve.
"""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pyarrow as pa
import pytest
from helpers.human_desk import HumanDesk
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.config import ServiceConfig
from atgen_ray.serving.application import create_api
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder


class Office:
    """A service with people, and a run whose first two tasks are up."""

    def __init__(self, storage: Path, **settings: Any) -> None:
        self.journal = Journal(f"sqlite:///{storage}/atgen.db")
        self.desk = HumanDesk(self.journal, 4, **settings)
        pool = [{"id": id_, "text": text} for id_, text in self.desk.texts.items()]
        RunFolder(str(storage), self.desk.run).write_table(
            "pool.parquet", pa.Table.from_pylist(pool)
        )
        self.desk.texts = dict(list(self.desk.texts.items())[:2])
        self.desk.publish_tasks()
        tokens = Tokens(self.journal.database)
        roles = {"ann": "annotator", "bea": "annotator", "root": "admin"}
        self._tokens = {name: tokens.create(role, name) for name, role in roles.items()}
        self._client = TestClient(create_api(ServiceConfig(storage=str(storage)), None, None))

    def call(
        self, who: str, method: str, path: str, body: Any = None, key: str | None = None
    ) -> httpx2.Response:
        headers = bearer(self._tokens[who]) | {"Idempotency-Key": key or uuid4().hex}
        headers |= {"Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)  # httpx would refuse a lone surrogate
        return self._client.request(
            method, f"/api/v1/runs/{self.desk.run}/tasks{path}", content=content, headers=headers
        )

    def lease(self, who: str, **body: Any) -> list[dict[str, Any]]:
        return self.call(who, "POST", "/lease", body).json()["tasks"]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, overlap=2, adjudicate_below=0.9)


def test_a_replayed_submit_is_answered_the_same_and_counted_once(office: Office) -> None:
    (task,) = office.lease("ann")
    assert (task["id"], task["suggestion"]["text"], task["lease_seconds"] > 240) == (
        "e00",
        "draft of e00",
        True,
    )
    body = {"text": "a label", "seconds": 2.5}
    first = office.call("ann", "POST", "/e00/submit", body, "key-one")
    again = office.call("ann", "POST", "/e00/submit", body, "key-one")
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    progress = office.call("ann", "GET", "/progress").json()
    assert (progress["own"]["submitted"], progress["own"]["seconds"]) == (1, 2.5)
    other = office.call("ann", "POST", "/e00/submit", {"text": "another"}, "key-one")
    assert other.status_code == 409
    assert "was used for another request" in other.json()["error"]["message"]


def test_next_leaves_what_is_on_the_desk(office: Office) -> None:
    (first,) = office.lease("ann")
    (second,) = office.lease("ann", besides=[first["id"]])
    assert first["id"] != second["id"]
    assert office.lease("ann", besides=[first["id"], second["id"]]) == []
    assert [task["id"] for task in office.lease("ann", count=5)] == ["e00", "e01"]  # after a reload


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/lease", {"count": 0}),
        ("/lease", {"count": 21}),
        ("/lease", {"cuont": 1}),
        ("/lease", {"besides": ["../x"]}),
        ("/e00/submit", {"text": " \n"}),
        ("/e00/submit", {"text": "x" * 100_001}),
        ("/e00/submit", {"text": "x", "seconds": -1}),
        ("/e00/submit", {"text": "lone \ud800 surrogate"}),
        ("/e00/skip", {"reason": ""}),
        ("/e00/flag", {}),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(office: Office, path: str, body: Any) -> None:
    office.lease("ann")
    answer = office.call("ann", "POST", path, body)
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]["message"]


def test_unknown_things_and_the_wrong_role(office: Office) -> None:
    assert office.call("ann", "PUT", "/e77/draft", {"text": "x"}).status_code == 404
    assert office.call("ann", "POST", "/e00/submit", {"text": "x"}).status_code == 409  # not leased
    assert office.call("ann", "POST", "/e00/submit", {"text": "x"}, "a b").status_code == 422
    for method, path in (
        ("GET", "/disputes"),
        ("GET", "/team"),
        ("POST", "/import"),
        ("POST", "/e00/decide"),
    ):
        assert office.call("ann", method, path, {}).status_code == 403
    run, office.desk.run = office.desk.run, "nobody"
    assert office.call("ann", "POST", "/lease", {}).status_code == 404
    office.desk.run = run


def test_answers_that_disagree_are_settled_by_an_admin(office: Office) -> None:
    for who, text in (("ann", "the river is high"), ("bea", "completely otherwise")):
        office.lease(who)
        assert (
            office.call(who, "POST", "/e00/submit", {"text": text, "seconds": 4}).status_code == 200
        )
    (dispute,) = office.call("root", "GET", "/disputes").json()
    assert sorted((each["annotator"], each["text"]) for each in dispute["answers"]) == [
        ("ann", "the river is high"),
        ("bea", "completely otherwise"),
    ]
    assert dispute["agreement"] < 0.5
    assert dispute["measure"] == "edit"
    assert office.desk.round().collect_labels() == ([], [])
    assert office.call("root", "POST", "/e00/decide", {"verdict": "reopen"}).status_code == 409
    assert office.call("root", "POST", "/e00/decide", {"verdict": "label"}).status_code == 422
    decided = office.call(
        "root", "POST", "/e00/decide", {"verdict": "label", "text": "the river rose"}
    )
    assert decided.json() == {"id": "e00", "state": "answered"}
    assert office.call("ann", "POST", "/e00/undo").status_code == 409
    (label,), _ = office.desk.round().collect_labels()
    assert (label.text, label.annotator) == ("the river rose", "human/root")
    assert [answer["annotator"] for answer in label.provenance["answers"]] == ["ann", "bea"]


def test_a_flag_waits_for_an_admin_who_gives_it_back_or_drops_it(office: Office) -> None:
    office.lease("ann")
    assert (
        office.call("ann", "POST", "/e00/flag", {"comment": "wrong language"}).json()["state"]
        == "flagged"
    )
    (dispute,) = office.call("root", "GET", "/disputes").json()
    assert dispute["answers"][0]["note"] == "wrong language"
    assert (
        office.call("root", "POST", "/e00/decide", {"verdict": "reopen"}).json()["state"] == "open"
    )
    assert office.lease("ann")[0]["id"] == "e00"
    office.call("ann", "POST", "/e00/flag", {"comment": "still wrong"})
    office.call("root", "POST", "/e00/decide", {"verdict": "drop", "comment": "no English"})
    _, (letter,) = office.desk.round().collect_labels()
    assert (letter.id, letter.reason) == ("e00", "root dropped it (no English)")


def test_a_skipped_task_goes_to_others_then_to_an_admin_who_gives_it_back_or_drops_it(
    office: Office,
) -> None:
    office.lease("ann")
    assert (
        office.call("ann", "POST", "/e00/skip", {"reason": "cannot tell"}).json()["state"]
        == "skipped"
    )
    assert office.call("ann", "POST", "/e00/undo").json()["state"] == "leased"
    office.call("ann", "POST", "/e00/skip", {"reason": "really not"})
    assert office.call("ann", "GET", "/disputes").status_code == 403
    (skipped,) = office.call("root", "GET", "/disputes").json()
    assert (skipped["id"], skipped["state"], skipped["agreement"]) == ("e00", "open", None)
    assert [(each["annotator"], each["state"], each["note"]) for each in skipped["answers"]] == [
        ("ann", "skipped", "really not")
    ]
    assert [task["id"] for task in office.lease("ann", count=5)] == ["e01"], (
        "it does not come back to who skipped it"
    )
    assert [task["id"] for task in office.lease("bea")] == ["e00"]
    office.call("bea", "POST", "/e00/skip", {"reason": "nor I"})
    (waiting,) = office.call("root", "GET", "/disputes").json()
    assert (waiting["id"], waiting["state"]) == ("e00", "disputed")
    assert office.desk.round().collect_labels() == ([], [])

    assert office.call("root", "POST", "/e01/decide", {"verdict": "drop"}).status_code == 409
    assert (
        office.call("root", "POST", "/e00/decide", {"verdict": "reopen"}).json()["state"] == "open"
    )
    assert office.call("root", "GET", "/disputes").json() == []
    assert office.lease("ann")[0]["id"] == "e00"
    office.call("ann", "POST", "/e00/skip", {"reason": "no"})
    dropped = office.call(
        "root", "POST", "/e00/decide", {"verdict": "drop", "comment": "nobody can"}
    )
    assert dropped.json() == {"id": "e00", "state": "dropped"}
    _, (letter,) = office.desk.round().collect_labels()
    assert letter.reason == "root dropped it (nobody can); ann skipped it (no)"


def test_an_admin_may_label_what_was_skipped_while_others_could(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.lease("ann")
    office.call("ann", "POST", "/e00/skip", {"reason": "cannot tell"})
    assert office.lease("bea")[0]["id"] == "e00"
    assert (
        office.call("root", "POST", "/e00/decide", {"verdict": "label", "text": "so"}).json()[
            "state"
        ]
        == "answered"
    )
    late = office.call("bea", "POST", "/e00/submit", {"text": "too late"})
    assert (late.status_code, late.json()["error"]["message"]) == (
        409,
        "task 'e00' was settled without you",
    )
    (label,), _ = office.desk.round().collect_labels()
    assert (label.text, label.annotator) == ("so", "human/root")


def test_the_team_is_measured(office: Office) -> None:
    for who, texts in (("ann", ["draft of e00", "same"]), ("bea", ["draft of e00", "Same "])):
        for id_, text in zip(("e00", "e01"), texts, strict=True):
            office.lease(who, count=2)
            office.call(who, "POST", f"/{id_}/submit", {"text": text, "seconds": 3})
    team = office.call("root", "GET", "/team").json()
    ann = team["annotators"][0]
    assert (ann["annotator"], ann["submitted"], ann["seconds"], ann["edited"]) == (
        "ann",
        2,
        3.0,
        0.5,
    )
    assert 0 < ann["edit_rate"] <= 1
    (pair,) = team["agreement"]["pairs"]
    assert (pair["annotators"], pair["exact"], pair["examples"]) == (["ann", "bea"], 1.0, 2)
    assert pair["chrf"] < 1
    assert {each["annotator"]: each["examples"] for each in team["agreement"]["annotators"]} == {
        "ann": 2,
        "bea": 2,
    }


def test_labels_that_exist_are_brought_along_and_not_paid(tmp_path: Path) -> None:
    office = Office(tmp_path, price_per_label=1.0)
    labels = [
        {"id": "e00", "text": "known"},
        {"input": "text 3", "text": "of the pool only", "annotator": "old team"},
        {"id": "e99", "text": "of nowhere"},
    ]
    found = office.call("root", "POST", "/import", {"labels": labels}).json()
    assert found == {
        "imported": 2,
        "known": 0,
        "refused": [{"place": 2, "reason": "the pool has no such example"}],
        "unknown": 1,
        "conflicting": 0,
    }
    again = office.call("root", "POST", "/import", {"labels": labels[:2]}).json()
    assert (again["imported"], again["known"]) == (0, 2)
    other = office.call(
        "root", "POST", "/import", {"labels": [labels[0] | {"annotator": "x", "text": "y"}]}
    ).json()
    assert other["refused"] == [{"place": 0, "reason": "it is labelled already"}]
    nul = {"labels": [labels[0] | {"annotator": "a\0b"}]}
    assert office.call("root", "POST", "/import", nul).status_code == 422
    assert [task["id"] for task in office.lease("ann", count=5)] == ["e01"]
    taken, _ = office.desk.round().collect_labels()
    assert {label.id: (label.text, label.annotator, label.dollars) for label in taken} == {
        "e00": ("known", "human/imported", 0.0),
        "e03": ("of the pool only", "human/old team", 0.0),
    }
