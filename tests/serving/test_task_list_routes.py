"""The routes of the task list over HTTP: who may do what, what filters are refused, exports."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from helpers.human_desk import HumanDesk
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.config import ServiceConfig
from atgen_ray.serving.application import create_api
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal

MARKUP = "<script>alert(1)</script>"


class Office:
    """A service with a run that ann has begun to label, and its lead."""

    def __init__(self, storage: Path) -> None:
        self.journal = Journal(f"sqlite:///{storage}/atgen.db")
        self.desk = HumanDesk(self.journal, 4, settle_seconds=600.0)
        self.desk.texts["e03"] = f"{MARKUP} é\nsecond line"
        self.desk.publish_tasks()
        queue = self.desk.queue("ann")
        for id_, text in (("e00", "It works."), ("e01", '=1+1, "quoted"\nline')):
            assert queue.lease()[0]["id"] == id_
            queue.answer(f"key-{id_}-{self.desk.run}", id_, "submitted", text, 4.0)
        tokens = Tokens(self.journal.database)
        roles = {"ann": "annotator", "bea": "annotator", "root": "admin"}
        self._tokens = {name: tokens.create(role, name) for name, role in roles.items()}
        self._client = TestClient(create_api(ServiceConfig(storage=str(storage)), None, None))

    def call(self, who: str, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = bearer(self._tokens[who])
        address = f"/api/v1/runs/{self.desk.run}/tasks{path}"
        return self._client.request(method, address, headers=headers, **more)

    def page(self, who: str, path: str) -> httpx2.Response:
        headers = bearer(self._tokens[who]) | {"Accept": "text/html"}
        return self._client.get(f"/annotate/{self.desk.run}{path}", headers=headers)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    office = Office(tmp_path_factory.mktemp("office"))
    yield office
    office.journal.close()


def test_pages_follow_each_other(office: Office) -> None:
    first = office.call("root", "GET", "/list", params={"limit": 3}).json()
    assert [task["id"] for task in first["tasks"]] == ["e00", "e01", "e02"]
    rest = office.call("root", "GET", "/list", params={"limit": 3, "after": first["next"]}).json()
    assert ([task["id"] for task in rest["tasks"]], rest["next"]) == (["e03"], None)
    counted = office.call("root", "GET", "/count", params={"state": ["open", "answered"]}).json()
    assert counted == {"count": 4, "states": {"answered": 2, "open": 2}}


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("colour=red", 422, "colour: Extra inputs are not permitted"),
        ("state=opened", 422, "state.0: Input should be 'open'"),
        ("sort=similarity", 422, "expected an example id in like"),
        ("field=venue", 422, "expected NAME=VALUE"),
        ("after=x", 400, "expected `next` of a page of the same order"),
        ("like=e00", 409, "has no embeddings"),
    ],
)
def test_a_wrong_filter_has_one_line(office: Office, query: str, status: int, words: str) -> None:
    answer = office.call("root", "GET", f"/list?{query}")
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_an_annotator_has_their_own_list_and_no_bulk(office: Office) -> None:
    own = office.call("ann", "GET", "/list").json()["tasks"]
    assert [task["id"] for task in own] == ["e00", "e01"]
    assert office.call("bea", "GET", "/list").json()["tasks"] == []
    assert office.call("bea", "GET", "/e00/detail").status_code == 404
    for method, path in [
        ("POST", "/bulk"),
        ("GET", "/bulk"),
        ("GET", "/export"),
        ("GET", "/choices"),
        ("GET", "/reviews"),
        ("POST", "/bulk/1/undo"),
        ("POST", "/e00/review"),
    ]:
        assert office.call("ann", method, path, json={}).status_code == 403, path


def test_bulk_actions_by_filter_can_be_undone(office: Office) -> None:
    body: dict[str, Any] = {"verb": "next", "filter": {"q": "second"}, "expected": 1}
    done = office.call("root", "POST", "/bulk", json=body).json()
    assert done["tasks"] == 1
    assert office.call("root", "GET", "/list").json()["tasks"][0]["id"] == "e03"
    undone = office.call("root", "POST", f"/bulk/{done['number']}/undo").json()
    assert undone == {"number": done["number"], "tasks": 1, "changed": 0}
    for wrong, words in [
        ({"verb": "next"}, "expected either ids or filter"),
        ({"verb": "next", "ids": ["e00"], "filter": {}}, "expected either ids or filter"),
        ({"verb": "nxt", "ids": ["e00"]}, "Input should be 'next'"),
        ({"verb": "next", "filter": {"stat": ["open"]}}, "filter.stat"),
        ({"verb": "next", "ids": ["e00"], "expcted": 1}, "did you mean 'expected'"),
    ]:
        answer = office.call("root", "POST", "/bulk", json=wrong)
        assert answer.status_code == 422
        assert words in answer.json()["error"]["message"]


def test_an_export_is_what_the_filter_means(office: Office) -> None:
    lines = office.call("root", "GET", "/export").content.decode().split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert [row["id"] for row in rows] == ["e00", "e01", "e02", "e03"]
    assert rows[3]["input"] == f"{MARKUP} é\nsecond line"
    answer = office.call("root", "GET", "/export?format=csv&did=submitted")
    assert "attachment" in answer.headers["content-disposition"]
    table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [(row["id"], row["answer_annotator"]) for row in table] == [
        ("e00", "ann"),
        ("e01", "ann"),
    ]
    assert table[1]["answer_text"] == '=1+1, "quoted"\nline'


def test_pages_show_what_is_stored_as_text(office: Office) -> None:
    for who in ("root", "ann"):
        page = office.page(who, "/tasks?q=second" if who == "root" else "/tasks")
        assert page.status_code == 200
        assert MARKUP not in page.text
    assert office.page("root", "/tasks/e03?q=second").status_code == 200
    assert MARKUP not in office.page("root", f"/tasks?q={MARKUP}&field=a={MARKUP}").text
    assert office.page("bea", "/tasks/e00").status_code == 404
    assert office.page("root", "/tasks?sort=up").status_code == 422
    # A browser may send what is empty in a form.
    assert office.page("root", "/tasks?q=&round=&person=&soon=&sort=newest").status_code == 200


def test_a_review_is_in_the_list_and_in_shares(office: Office) -> None:
    body = {"annotator": "ann", "verdict": "accepted", "drawn": True}
    assert office.call("root", "POST", "/e00/review", json=body).json()["state"] == "answered"
    (own,) = office.call("ann", "GET", "/list?review=accepted").json()["tasks"]
    assert (own["id"], own["answers"][0]["review"]) == ("e00", "accepted")
    (share,) = office.call("root", "GET", "/reviews").json()
    assert (share["annotator"], share["share"], share["drawn"]) == ("ann", 1.0, 1)
    assert share["low"] == pytest.approx(0.2065, abs=1e-3)
    assert "accepted" in office.page("ann", "/tasks/e00").text
