"""What the service enters in the audit log, and what it does not. Everything real but Serve."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from helpers.command_line import call
from helpers.house import ORIGIN, House
from helpers.human_desk import HumanDesk
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.api.runs import open_run
from atgen_ray.serving.auditing import MOST_REFUSALS, find_address
from atgen_ray.serving.security.invites import Invites
from atgen_ray.serving.security.proxy_guard import ProxyGuard, middlewares


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.journal.close()


def test_a_change_is_entered_before_and_after(house: House) -> None:
    house.journal.create_run("sonnets", {}, "")
    admin = house.tokens.create("admin", "root")
    path = "/api/v1/runs/sonnets/title"
    assert house.client.put(path, headers=bearer(admin), json={"title": "T"}).status_code == 200
    assert house.client.put(path, headers=bearer(admin), json={"title": " "}).status_code == 400
    begun, done, _, failed = house.entries(run="sonnets")
    assert (begun["result"], done["result"], failed["result"]) == ("begun", "200", "400")
    assert done["detail"] == {"of": begun["sequence"]}
    assert (done["person"], done["token"], done["address"]) == (
        "root",
        admin.split("_")[1],
        "testclient",
    )
    assert done["action"] == f"PUT {path}"
    assert house.client.get("/api/v1/runs/sonnets", headers=bearer(admin)).status_code == 200
    assert len(house.entries(run="sonnets")) == 4  # a look is no change


def test_changes_of_people_name_tokens_and_never_secrets_or_names(house: House) -> None:
    admin = bearer(house.tokens.create("admin", "root"))
    ann = house.tokens.create("annotator", "ann")
    body = {"person": "ann", "groups": ["medics"]}
    assert house.client.put("/api/v1/people/groups", headers=admin, json=body).status_code == 200
    link = house.client.post("/api/v1/invites", headers=admin, json={"person": "ann"}).json()[
        "link"
    ]
    assert house.client.post("/api/v1/people/revoke", headers=admin, json=body).status_code == 422
    body = {"person": "ann"}
    assert house.client.post("/api/v1/people/revoke", headers=admin, json=body).status_code == 200
    rows = house.entries()
    assert [row["detail"].get("tokens") for row in rows if row["detail"].get("tokens")] == [
        [ann.split("_")[1]]
    ] * 2
    invited = next(row for row in rows if row["action"].endswith("invites") and row["target"])
    assert link.partition("key=")[2].startswith(invited["target"])
    for secret in (link.partition("_")[2], ann.split("_", 2)[2], "ann'", '"ann"'):
        assert secret not in str(rows)


def test_a_change_that_cannot_be_entered_is_not_made(house: House) -> None:
    house.journal.create_run("sonnets", {}, "")
    admin = bearer(house.tokens.create("admin", "root"))
    with house.journal.database.writing() as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
        )
    path = "/api/v1/runs/sonnets/title"
    answer = house.client.put(path, headers=admin, json={"title": "T"})
    assert answer.status_code >= 500
    assert house.journal.run("sonnets").title is None


def test_answers_are_counted_by_person_and_run(house: House) -> None:
    desk = HumanDesk(house.journal, 3)
    desk.publish_tasks()
    token = bearer(house.tokens.create("annotator", "ann"))
    base = f"/api/v1/runs/{desk.run}/tasks"
    leased = house.client.post(f"{base}/lease", headers=token, json={"count": 3}).json()["tasks"]
    for task in leased:
        house.client.post(
            f"{base}/{task['id']}/submit",
            headers=token | {"Idempotency-Key": uuid4().hex},
            json={"text": "a label of the row", "seconds": 1.0},
        )
    rows = house.entries(who="ann")
    assert [(row["action"], row["detail"]["times"]) for row in rows] == [
        ("POST /api/v1/runs/NAME/tasks/lease", 1),
        ("POST /api/v1/runs/NAME/tasks/ID/submit", 3),
    ]
    assert sorted(rows[1]["detail"]["examples"]) == ["e00", "e01", "e02"]
    assert rows[1]["of_run"] == desk.run
    assert "label of the row" not in str(rows)


def test_refusals_are_counted_and_bounded(house: House) -> None:
    """A stranger who guesses tokens, paths and runs fills no disk."""
    for number in range(200):
        path = f"/api/v1/runs/guess-{number}"
        assert house.client.post(path, headers=bearer(f"atgen_{number:08x}_x")).status_code == 401
    ann = bearer(house.tokens.create("annotator", "ann"))
    for number in range(100):
        house.client.post(f"/api/v1/made-up/{number}", headers=ann)
        house.client.post(f"/api/v1/runs/made-up-{number}/tasks/lease", headers=ann, json={})
        house.client.post(f"/api/v1/runs/x/tasks/e{number}/decide", headers=ann, json={})
    house.client.post("/sign-in", data={"token": "wrong"}, headers=ORIGIN)
    rows = house.entries()
    assert len(rows) <= 6, rows
    refused = [row for row in rows if row["action"] == "refused"]
    assert sum(row["detail"]["times"] for row in refused) == 301
    assert {row["result"] for row in refused} == {"401", "403"}
    assert [row["person"] for row in refused if row["result"] == "403"] == ["ann"]


def test_many_strangers_have_a_few_lines(house: House) -> None:
    auditor = house.auditor()
    for number in range(10 * MOST_REFUSALS):
        auditor.refuse({"type": "http", "path": "/x"}, f"10.0.0.{number}", 401)
    rows = house.entries(what="refused")
    assert len(rows) == MOST_REFUSALS + 1
    assert rows[-1]["detail"]["times"] == 9 * MOST_REFUSALS


def test_sign_in_invitations_and_exports_are_entered(house: House) -> None:
    house.journal.create_run("sonnets", {}, "")
    admin = house.tokens.create("admin", "root")
    cookie = house.sign_in(admin)
    house.sign_out(cookie)
    key = Invites(house.journal.database).create("root").partition("key=")[2]
    joined = house.client.post("/invite", data={"key": key, "name": "bea"}, headers=ORIGIN)
    assert joined.status_code == 200
    house.client.get("/api/v1/runs/sonnets/payments", headers=bearer(admin))
    actions = [(row["action"], row["channel"], row["person"]) for row in house.entries()]
    assert actions == [
        ("sign in", "page", "root"),
        ("POST /sign-out", "page", "root"),
        ("POST /sign-out", "page", "root"),
        ("accept invitation", "page", "bea"),
        ("GET /api/v1/runs/sonnets/payments", "http", "root"),
    ]


def test_commands_and_python_enter_what_they_change(house: House, tmp_path: Path) -> None:
    house.journal.create_run("sonnets", {}, "")
    open_run("sonnets", storage=tmp_path).stop()
    assert call("runs", "stop", "sonnets", "--storage", str(tmp_path)).status == 0
    assert call("runs", "stop", "sonnet", "--storage", str(tmp_path)).status == 2
    rows = [
        (row["channel"], row["action"], row["of_run"], row["result"]) for row in house.entries()
    ]
    assert rows == [
        ("api", "stop run", "sonnets", "begun"),
        ("api", "stop run", "sonnets", "ok"),
        ("cli", "stop run", "sonnets", "begun"),
        ("cli", "stop run", "sonnets", "ok"),
    ]


def test_admins_read_the_log_over_http(house: House) -> None:
    admin = bearer(house.tokens.create("admin", "root"))
    house.client.put("/api/v1/runs/x/title", headers=admin, json={"title": None})
    found = house.client.get("/api/v1/audit", headers=admin, params={"who": "root"}).json()
    assert [row["result"] for row in found["entries"]] == ["begun", "404"]
    assert found["head"] == str(house.log.head()) or found["head"].startswith("2:")
    ann = bearer(house.tokens.create("annotator"))
    assert house.client.get("/api/v1/audit", headers=ann).status_code == 403


def test_the_page_shows_the_log_and_escapes_it(house: House) -> None:
    admin = bearer(house.tokens.create("admin", "<b>root</b>"))
    for _ in range(101):  # two entries each: more than a page
        house.client.put("/api/v1/runs/x/title", headers=admin, json={"title": None})
    page = house.client.get("/audit", headers=admin, params={"what": "title", "who": "<b>root</b>"})
    assert page.status_code == 200
    assert "PUT /api/v1/runs/x/title" in page.text
    assert "&lt;b&gt;root" in page.text
    assert "<b>root" not in page.text
    assert "before=3" in page.text
    older = house.client.get("/audit", headers=admin, params={"before": 3}).text
    assert older.count("PUT /api/v1/runs/x/title") == 2
    assert "No entry is like that" in house.client.get("/audit?run=y", headers=admin).text


def test_the_address_is_the_proxy_s_word_only_for_known_proxies() -> None:
    headers = [(b"x-forwarded-for", b"6.6.6.6, 203.0.113.7, 10.0.0.2")]
    scope = {"type": "http", "client": ("10.0.0.1", 1), "headers": headers}
    assert find_address(scope, ()) == "10.0.0.1"
    assert find_address(scope, ("10.0.0.1", "10.0.0.2")) == "203.0.113.7"


# ---- Serve's own paths


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("192.0.2.1", {}, 404),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.7"}, 404),
        ("127.0.0.1", {"Forwarded": "for=203.0.113.7"}, 404),
        ("testclient", {}, 404),
    ],
)
def test_serve_s_own_paths_are_for_this_machine(
    client: str, headers: dict[str, str], status: int
) -> None:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"routes"})

    (middleware,) = middlewares()
    assert middleware.cls is ProxyGuard
    front = TestClient(ProxyGuard(serve), client=(client, 1))
    assert front.get("/-/routes", headers=headers).status_code == status
    assert front.get("/api/v1/runs", headers=headers).status_code == 200
