"""People: invitations, groups, revoking, and what was done by whom. Everything real but Serve."""

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx2
import pytest
import sqlalchemy as sa
from helpers.command_line import call
from helpers.human_desk import HumanDesk
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.annotation.human.lead.work import list_payments, list_work, write_payments
from atgen_ray.annotation.human.progress import measure_progress
from atgen_ray.config import ServiceConfig
from atgen_ray.core.errors import UserError
from atgen_ray.serving.application import create_api
from atgen_ray.serving.people import list_people, revoke_person, set_groups
from atgen_ray.serving.security.invites import InviteError, Invites
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.housekeeping import remove_run
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.tables import assignees, invites, tokens

ORIGIN = {"Origin": "http://testserver", "Host": "testserver"}


def key_of(path: str) -> str:
    return parse_qs(urlsplit(path).query)["key"][0]


@pytest.fixture
def open_invites(journal: Journal) -> Invites:
    return Invites(journal.database)


def submit(desk: HumanDesk, who: str, count: int, text: str = "label of {}") -> None:
    for task in desk.queue(who).lease(count):
        desk.queue(who).answer(uuid4().hex, task["id"], "submitted", text.format(task["id"]), 12.0)


# ---- tokens


def test_a_token_ends_and_knows_its_runs_and_groups(journal: Journal) -> None:
    known = Tokens(journal.database)
    token = known.create("annotator", f"ann-{uuid4().hex}", 3600, ["one"], ["medics"])
    caller = known.identify(token)
    assert caller is not None
    assert (caller.runs, caller.groups) == (("one",), ("medics",))
    assert caller.may_see("one")
    assert not caller.may_see("two")
    row = next(row for row in known.list() if row["id"] == caller.id)
    assert row["used"] is not None
    with journal.database.writing() as connection:
        connection.execute(sa.update(tokens).where(tokens.c.id == caller.id).values(expires=1.0))
    assert known.identify(token) is None


def test_an_expired_token_of_an_admin_opens_no_address(tmp_path: Path) -> None:
    known = Tokens(Journal(f"sqlite:///{tmp_path}/atgen.db").database)
    known.create("admin", "root", expires=-1)
    assert not known.exists("admin")
    known.create("admin", "root", expires=60)
    assert known.exists("admin")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"role": "admin", "runs": ["one"]}, "an admin sees all runs"),
        ({"role": "annotator", "groups": ["@x"]}, "the first of them not @"),
        ({"role": "annotator", "groups": ["a\nb"]}, "printable characters"),
    ],
)
def test_a_wrong_grant_is_refused(journal: Journal, given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Tokens(journal.database).create(label="x", **given)


# ---- invitations


def test_an_invitation_lets_people_in_as_often_as_it_says(
    journal: Journal, open_invites: Invites, run: str
) -> None:
    names = [f"{name}-{uuid4().hex[:8]}" for name in ("ann", "bea", "cy")]
    key = key_of(open_invites.create("root", runs_=[run], groups=["medics"], uses=2))
    given = [open_invites.accept(key, name) for name in names[:2]]
    with pytest.raises(InviteError, match="not valid any more"):
        open_invites.accept(key, names[2])
    caller = Tokens(journal.database).identify(given[0])
    assert caller is not None
    assert (caller.name, caller.role, caller.runs) == (names[0], "annotator", (run,))
    assert caller.groups == ("medics",)
    row = next(row for row in open_invites.list() if row["runs"] == [run])
    assert (row["uses"], row["max_uses"], row["open"]) == (2, 2, False)


def test_nobody_comes_in_under_the_name_of_another(journal: Journal, open_invites: Invites) -> None:
    name = f"Ann {uuid4().hex[:8]}"
    nameless = Tokens(journal.database).create("admin").split("_")[1]
    Tokens(journal.database).create("admin", name)
    key = key_of(open_invites.create("root", uses=9))
    for taken in (name, name.upper(), f" {name} ", nameless, "imported", "", "@medics", "a\tb"):
        with pytest.raises(UserError, match="the name is"):
            open_invites.accept(key, taken)
    assert next(row for row in open_invites.list() if row["max_uses"] == 9)["uses"] == 0


def test_of_many_who_ask_at_once_only_as_many_come_in(
    journal: Journal, open_invites: Invites
) -> None:
    key = key_of(open_invites.create("root", uses=3))
    same = f"one-{uuid4().hex[:8]}"

    def accept(name: str) -> bool:
        try:
            open_invites.accept(key, name)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(accept, [same] * 8)) == 1
        assert sum(pool.map(accept, [f"{index}-{same}" for index in range(8)])) == 2


@pytest.mark.parametrize("end", ["revoked", "expired", "other secret", "nonsense", "\0", "é_x"])
def test_a_link_that_is_over_lets_nobody_in(
    journal: Journal, open_invites: Invites, end: str
) -> None:
    key = key_of(open_invites.create("root"))
    id_ = key.partition("_")[0]
    if end == "revoked":
        open_invites.revoke(id_)
    elif end == "expired":
        with journal.database.writing() as connection:
            connection.execute(sa.update(invites).where(invites.c.id == id_).values(expires=1.0))
    else:
        key = f"{id_}_x" if end == "other secret" else end
    with pytest.raises(InviteError):
        open_invites.find(key)
    with pytest.raises(InviteError):
        open_invites.accept(key, uuid4().hex)


def test_a_link_for_one_person_is_for_one_who_is_there(
    journal: Journal, open_invites: Invites
) -> None:
    name = f"dee-{uuid4().hex[:8]}"
    Tokens(journal.database).create("annotator", name)
    key = key_of(open_invites.create("root", person=name, uses=5))
    caller = Tokens(journal.database).identify(open_invites.accept(key, "somebody else"))
    assert caller is not None
    assert caller.name == name
    with pytest.raises(InviteError):
        open_invites.accept(key, name)


def test_a_wrong_invitation_is_refused(open_invites: Invites, run: str) -> None:
    for given, told in (
        ({"runs_": [f"{run}x"]}, "did you mean"),
        ({"days": 0}, "more than 0"),
        ({"uses": 0}, "expected 1 to"),
        ({"role": "admin", "runs_": [run]}, "an admin sees all runs"),
    ):
        with pytest.raises(UserError, match=told):
            open_invites.create("root", **given)
    with pytest.raises(UserError, match="invitation 'nobody' is unknown"):
        open_invites.revoke("nobody")


def test_the_page_of_an_invitation_signs_in(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    desk = HumanDesk(journal)
    path = Invites(journal.database).create("root", runs_=[desk.run])
    client = TestClient(create_api(ServiceConfig(storage=str(tmp_path)), None, None))
    page = client.get(path, headers={"Accept": "text/html"})
    assert desk.run in page.text
    form = {"key": key_of(path), "name": "<b>Ann</b>"}
    assert client.post("/invite", data=form).status_code == 403
    body = {"key": form["key"], "name": "imported"}
    taken = client.post("/invite", data=body, headers=ORIGIN)
    assert taken.status_code == 422
    assert "somebody has already" in taken.text
    joined = client.post("/invite", data=form, headers=ORIGIN)
    assert joined.status_code == 200, joined.text
    assert f'href="/annotate/{desk.run}"' in joined.text
    there = client.get("/", headers={"Accept": "text/html"})
    assert there.status_code == 200
    assert "&lt;b&gt;Ann&lt;/b&gt;, annotator" in there.text
    assert client.get(path, headers={"Accept": "text/html"}).status_code == 404


def test_admins_invite_and_revoke_over_http(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    run = HumanDesk(journal).run
    known = Tokens(journal.database)
    admin = bearer(known.create("admin", "root"))
    client = TestClient(create_api(ServiceConfig(storage=str(tmp_path)), None, None))

    def send(method: str, path: str, **body: Any) -> httpx2.Response:
        return client.request(method, f"/api/v1{path}", json=body or None, headers=admin)

    made = send("POST", "/invites", runs=[run], groups=["medics"], days=3, uses=4)
    assert made.status_code == 201, made.text
    token = Invites(journal.database).accept(key_of(made.json()["link"]), "Ann")
    assert client.get("/api/v1/runs", headers=bearer(token)).json()[0]["name"] == run
    assert send("PUT", "/people/groups", person="Ann", groups=["night"]).status_code == 200
    listed = {row["name"]: row for row in send("GET", "/people").json()}
    assert (listed["Ann"]["groups"], listed["Ann"]["runs"]) == (["night"], [run])
    (invite,) = send("GET", "/invites").json()
    assert made.json()["link"] not in str(invite)
    assert send("POST", f"/invites/{invite['id']}/revoke").status_code == 200
    said = send("POST", "/people/revoke", person="Ann").json()["message"]
    assert said == "Ann is signed out for good; 0 tasks in hand went back"
    assert client.get("/api/v1/runs", headers=bearer(token)).status_code == 401
    assert send("POST", "/people/revoke", person="Anna").status_code == 400
    page = client.get("/people", headers=admin | {"Accept": "text/html"})
    assert page.status_code == 200
    assert "revoked" in page.text


def test_a_new_run_of_an_old_name_is_not_shared(journal: Journal, run: str, tmp_path: Path) -> None:
    known, links = Tokens(journal.database), Invites(journal.database)
    other = journal.create_run(f"run-{uuid4().hex}", {}, "").name
    token = known.create("annotator", "", runs=[run, other])
    key = key_of(links.create("root", runs_=[run]))
    remove_run(journal, str(tmp_path), run)
    journal.create_run(run, {}, "")
    caller = known.identify(token)
    assert caller is not None
    assert caller.runs == (other,)
    assert links.find(key).runs == ()


# ---- people


def test_a_revoked_person_leaves_the_tasks_to_others(journal: Journal) -> None:
    name = f"eve-{uuid4().hex[:8]}"
    known = Tokens(journal.database)
    pair = [known.create("annotator", name, groups=["a"]) for _ in range(2)]
    link = key_of(Invites(journal.database).create("root", person=name))
    desks = [HumanDesk(journal, 2), HumanDesk(journal, 1)]
    for desk in desks:
        desk.publish_tasks()
        desk.queue(name).lease(2)
        assert desk.queue("bob").lease(2) == []
    set_groups(journal, name, ["b", "b", "c"])
    row = next(row for row in list_people(journal) if row["name"] == name)
    assert (row["groups"], row["active"], len(row["tokens"])) == (["b", "c"], True, 2)
    assert revoke_person(journal, name) == 3
    assert [known.identify(token) for token in pair] == [None, None]
    with pytest.raises(InviteError):
        Invites(journal.database).accept(link, name)
    assert [len(desk.queue("bob").lease(2)) for desk in desks] == [2, 1]
    with pytest.raises(UserError, match="is unknown"):
        revoke_person(journal, f"{name}x")


def test_own_progress_is_told_with_overlap(journal: Journal) -> None:
    desk = HumanDesk(journal, 16, overlap=2)
    desk.publish_tasks()
    submit(desk, "ann", 10)
    with journal.database.writing() as connection:
        rows = [("e10", "ann"), ("e11", "@medics"), ("e12", "bob"), ("e00", "ann")]
        connection.execute(
            sa.insert(assignees),
            [{"run": desk.run, "example_id": id_, "who": who} for id_, who in rows],
        )
    progress = measure_progress(journal, desk.run, "ann", ["medics"])
    assert (progress["done"], progress["total"]) == (0, 16)
    own = progress["own"]
    assert (own["done"], own["submitted"], own["open"], own["assigned"]) == (10, 10, 5, 2)
    assert own["left_seconds"] is not None
    fresh = measure_progress(journal, desk.run, "cy")["own"]
    assert (fresh["done"], fresh["open"], fresh["left_seconds"]) == (0, 12, None)


def test_who_did_what(journal: Journal) -> None:
    desk = HumanDesk(journal, 6)
    desk.publish_tasks()
    submit(desk, "ann", 2)
    submit(desk, "ann", 1, "draft of {}")
    (task,) = desk.queue("bob").lease(1)
    desk.queue("bob").answer(uuid4().hex, task["id"], "skipped", "cannot tell")
    desk.queue("bob").lease(1)
    found = list_work(journal, desk.run)
    ann, bob = found["people"]
    assert (ann["annotator"], ann["submitted"], ann["seconds"]) == ("ann", 3, 12.0)
    assert ann["edited"] == pytest.approx(2 / 3)
    assert ann["first"] <= ann["last"] <= ann["seen"]
    assert (bob["submitted"], bob["skipped"], bob["leased"], bob["edited"]) == (0, 1, 1, None)
    assert [sum(hour["answers"].values()) for hour in found["hours"]] in ([3], [1, 2], [2, 1])


def test_payments_are_those_of_the_ledger(journal: Journal) -> None:
    desk = HumanDesk(journal, 3, overlap=2, adjudicate_below=0.0, price_per_label=0.15)
    desk.publish_tasks()
    submit(desk, "ann", 3)
    submit(desk, "=bob", 2)
    before = list_payments(journal, desk.run)
    assert [(row["person"], row["answers"], row["accepted"]) for row in before] == [
        ("=bob", 2, 0),
        ("ann", 3, 0),
    ]
    desk.round().collect_labels()
    rows = list_payments(journal, desk.run)
    assert [(row["person"], row["accepted"], row["price"]) for row in rows] == [
        ("=bob", 2, 0.15),
        ("ann", 2, 0.15),
    ]
    assert sum(row["dollars"] for row in rows) == pytest.approx(
        read_balance(journal, desk.run).paid
    )
    first, second = csv.DictReader(io.StringIO(write_payments(rows)))
    assert first["person"] == "'=bob"  # no formula of a spreadsheet
    assert (second["answers"], second["seconds"], second["dollars"]) == ("3", "36.0", "0.3")


# ---- the command line


def test_the_command_line_invites_and_restricts(tmp_path: Path) -> None:
    at = ["--storage", str(tmp_path)]
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    run = HumanDesk(journal).run
    create = ["token", "create", "--role", "annotator", "--label", "Ana"]
    token = call(*create, "--expires", "30d", "--run", run, "--group", "medics", *at).out.strip()
    caller = Tokens(journal.database).identify(token)
    assert caller is not None
    assert (caller.runs, caller.groups) == ((run,), ("medics",))
    refused = call(*create, "--expires", "soon", *at)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "--expires is 'soon', expected a number and h, d or w" in refused.err
    made = call("invite", "create", "--run", run, "--uses", "2", "--url", "https://x.example/", *at)
    assert made.out.startswith("https://x.example/invite?key=")
    Invites(journal.database).accept(key_of(made.out.strip()), "Bea")
    assert "1" in call("invite", "list", *at).out
    id_ = key_of(made.out.strip()).partition("_")[0]
    assert call("invite", "revoke", id_, *at).status == 0
    assert call("invite", "revoke", "nobody", *at).status == 2
