"""Sessions, rotation, scopes, rates and budgets of tokens. Everything real but Serve."""

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from fastapi.routing import APIRoute
from helpers.command_line import call
from helpers.house import House, caller_of
from helpers.services import bearer

from atgen_ray.core.errors import UserError
from atgen_ray.serving.answers import check_adapter
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.metering import Meter
from atgen_ray.serving.people import list_members, list_people, set_member
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.invites import Invites
from atgen_ray.serving.security.login import MOST, Sessions
from atgen_ray.serving.security.rates import DAY, ModelBudget, RequestRates
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import AuditLog, Filter
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import sessions, tokens


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.journal.close()


# ---- sessions


def test_a_copied_cookie_is_dead_after_sign_out(house: House) -> None:
    token = house.tokens.create("admin", "root")
    copied, other = house.sign_in(token), house.sign_in(token)
    assert token not in copied
    assert house.get("/api/v1/runs", copied) == 200
    assert house.sign_out(copied) == 204
    assert house.get("/api/v1/runs", copied) == 401
    assert house.get("/api/v1/runs", other) == 200  # another browser of the person
    assert house.client.get("/api/v1/runs", headers=bearer(token)).status_code == 200


def test_a_token_is_no_cookie_and_a_cookie_no_token(house: House) -> None:
    token = house.tokens.create("admin")
    cookie = house.sign_in(token)
    assert house.get("/api/v1/runs", token) == 401
    assert house.client.get("/api/v1/runs", headers=bearer(cookie)).status_code == 401
    id_, secret = cookie.split("_")[1], cookie.split("_", 2)[2]
    for made_up in (f"session_{id_}_x", f"session_0_{secret}", "session__", "\x7f", "session_é_x"):
        assert Sessions(house.journal.database).identify(made_up) is None


def test_sessions_end_with_their_token_and_are_bounded(house: House) -> None:
    token = house.tokens.create("annotator", "ann")
    cookies = [house.sign_in(token) for _ in range(MOST + 3)]
    assert [house.get("/api/v1/runs", each) for each in (cookies[0], cookies[-1])] == [401, 200]
    house.tokens.revoke("ann")
    assert house.get("/api/v1/runs", cookies[-1]) == 401
    with house.journal.database.reading() as connection:
        assert connection.execute(sa.select(sessions)).all() == []


def test_a_session_ends_with_its_time(house: House) -> None:
    cookie = house.sign_in(house.tokens.create("admin"))
    with house.journal.database.writing() as connection:
        connection.execute(sa.update(sessions).values(expires=time.time() - 1))
    assert house.get("/api/v1/runs", cookie) == 401


# ---- rotation, expiry


def test_a_rotated_token_works_for_its_grace_time(house: House) -> None:
    first = house.tokens.create("admin", "pipeline")
    cookie = house.sign_in(first)
    second = house.tokens.rotate("pipeline", 3600)
    assert first.split("_")[1] == second.split("_")[1] != ""
    assert house.tokens.identify(first) is not None
    assert house.tokens.identify(second) is not None
    assert house.get("/api/v1/runs", cookie) == 200
    streaming = caller_of(house, first)
    with house.journal.database.writing() as connection:  # the grace time passes
        connection.execute(sa.update(tokens).values(old_until=time.time() - 1))
    assert house.tokens.identify(first) is None
    assert house.tokens.identify(second) is not None
    assert house.get("/api/v1/runs", cookie) == 401
    assert not house.tokens.is_active(streaming)
    third = house.tokens.rotate("pipeline", 0)
    assert [house.tokens.identify(each) is not None for each in (second, third)] == [False, True]


def test_what_cannot_be_rotated_is_named(house: House) -> None:
    house.tokens.create("annotator", "twin")
    house.tokens.create("annotator", "twin")
    gone = house.tokens.create("admin").split("_")[1]
    house.tokens.revoke(gone)
    for name, told in (
        ("twin", "the label of 2 tokens"),
        ("twim", "did you mean 'twin'"),
        (gone, "is revoked or has ended"),
        ("", "is unknown"),
    ):
        with pytest.raises(UserError, match=told):
            house.tokens.rotate(name)
    assert call("token", "rotate", gone, "--grace", "1y").status == 2


def test_the_command_line_rotates_and_scopes(tmp_path: Path) -> None:
    at = ["--storage", str(tmp_path)]
    made = call(
        "token", "create", "--scope", "infer", "--per-minute", "5", "--label", "bot", *at
    ).out.strip()
    turned = call("token", "rotate", "bot", "--grace", "0", *at).out.strip()
    listed = call("token", "list", "--json", *at).out
    assert '"scopes": ["infer"]' in listed
    assert turned not in listed
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    known = Tokens(journal.database)
    assert known.identify(made) is None
    caller = known.identify(turned)
    assert caller is not None
    assert (caller.role, caller.scopes, caller.minute_requests) == ("program", ("infer",), 5)
    assert call("token", "create", "--scope", "inger", *at).err.count("did you mean 'infer'") == 1
    assert "neither --role nor --scope" in call("token", "create", *at).err
    rows = list(AuditLog(journal.database).read(Filter(what="token")))
    assert [(row["action"], row["result"], row["channel"]) for row in rows][:4] == [
        ("create token", "begun", "cli"),
        ("create token", "ok", "cli"),
        ("rotate token", "begun", "cli"),
        ("rotate token", "ok", "cli"),
    ]
    assert rows[1]["target"] == caller.id
    assert made.split("_", 2)[2] not in str(rows)
    journal.close()


def test_a_token_of_an_invitation_ends(house: House) -> None:
    invites = Invites(house.journal.database)
    key = invites.create("root", token_days=2).partition("key=")[2]
    id_ = invites.accept(key, "bea").split("_")[1]
    row = next(row for row in house.tokens.list() if row["id"] == id_)
    assert row["expires"] is not None
    assert row["active"]
    with house.journal.database.writing() as connection:
        connection.execute(sa.update(tokens).values(expires=time.time() - 1))
    assert [person["active"] for person in list_people(house.journal)] == [False]


# ---- scopes


FILES = {
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{id}"),
    ("DELETE", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
}
SCOPED = {
    "select": {("POST", "/api/v1/select"), ("GET", "/api/v1/select/{job}")},
    "infer": {
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{name:path}"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches"),
        ("GET", "/v1/batches/{id}"),
        ("POST", "/v1/batches/{id}/cancel"),
        *FILES,
        ("GET", "/v1/usage"),
    },
    "runs": {
        ("POST", "/api/v1/runs"),
        ("GET", "/api/v1/runs"),
        ("GET", "/api/v1/runs/{name}"),
        ("POST", "/api/v1/runs/{name}/stop"),
        ("POST", "/api/v1/runs/{name}/resume"),
        ("POST", "/api/v1/runs/{name}/retry"),
        ("PUT", "/api/v1/runs/{name}/title"),
        ("PUT", "/api/v1/runs/{name}/archived"),
        ("PUT", "/api/v1/runs/{name}/promoted"),
        ("POST", "/api/v1/runs/{name}/rows"),
        ("DELETE", "/api/v1/runs/{name}/promoted"),
        ("GET", "/api/v1/runs/{name}/metrics"),
        ("GET", "/api/v1/runs/{name}/events"),
        ("GET", "/api/v1/runs/{name}/export"),
        ("POST", "/api/v1/configs/check"),
        ("POST", "/api/v1/configs/preview"),
        ("POST", "/api/v1/configs/yaml"),
        ("POST", "/api/v1/configs/plan"),
        ("PUT", "/api/v1/uploads/{file}"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/fine_tuning/jobs/{id}"),
        ("POST", "/v1/fine_tuning/jobs/{id}/cancel"),
        ("POST", "/v1/fine_tuning/jobs/{id}/pause"),
        ("POST", "/v1/fine_tuning/jobs/{id}/resume"),
        ("GET", "/v1/fine_tuning/jobs/{id}/checkpoints"),
        *FILES,
        ("GET", "/v1/usage"),
    },
}
PUBLIC = {"/healthz", "/readyz", "/static/{digest}/{name}", "/sign-in", "/invite", "/openapi.json"}


@pytest.mark.parametrize("scope", SCOPED)
def test_a_scope_opens_its_own_routes_and_no_others(house: House, scope: str) -> None:
    """The routes are those of the application, so a new one is tried without being named here."""
    house.journal.create_run("news-1", {}, "")
    token = bearer(house.tokens.create(scopes=[scope], runs=["news-*"]))
    opened = set()
    for route in house.app.routes:
        if not isinstance(route, APIRoute) or route.path in PUBLIC:
            continue
        for method in route.methods:
            path = route.path.replace("{name:path}", "x").replace("{name}", "news-1")
            path = path.replace("{id}", "e").replace("{job}", "x").replace("{file}", "x.csv")
            headers = token | {"Idempotency-Key": uuid4().hex}
            body = None if method == "GET" else {"confirm": "x"}
            if path.endswith("/events"):
                continue
            answer = house.client.request(
                method, path.replace("{", "").replace("}", ""), headers=headers, json=body
            )
            if answer.status_code != 403:
                opened.add((method, route.path))
    assert opened - {("POST", "/sign-out")} == SCOPED[scope] - {
        ("GET", "/api/v1/runs/{name}/events")
    }


def test_a_project_s_token_leads_its_own_runs_alone(house: House) -> None:
    for name in ("news-1", "other"):
        house.journal.create_run(name, {}, "")
    token = bearer(house.tokens.create(scopes=["runs"], runs=["news-*"]))
    assert house.client.get("/api/v1/runs/news-1", headers=token).status_code == 200
    assert house.client.get("/api/v1/runs/other", headers=token).status_code == 404
    assert house.client.post("/api/v1/runs/other/stop", headers=token).status_code == 404
    assert [row["name"] for row in house.client.get("/api/v1/runs", headers=token).json()] == [
        "news-1"
    ]
    for tree, key in (
        ({"name": "other-2"}, "name is 'other-2'"),
        ({"name": "news-2", "fork_from": "other"}, "fork_from is 'other'"),
    ):
        config = {
            "data": {"pool": "hub/x"},
            "model": {"id": "hub/m"},
            "annotator": {"type": "human"},
        }
        answer = house.client.post("/api/v1/runs", headers=token, json=config | tree)
        assert answer.status_code == 403, answer.text
        assert key in answer.json()["error"]["message"]


def test_an_adapter_of_another_run_is_unknown(house: House) -> None:
    caller = caller_of(house, house.tokens.create(scopes=["infer"], runs=["news-*"]))
    check_adapter(None, caller)
    check_adapter("news-1-3", caller)
    with pytest.raises(ApiError, match="there is no run 'other'"):
        check_adapter("other-3", caller)


def test_old_tokens_mean_what_they_meant(house: House) -> None:
    admin = caller_of(house, house.tokens.create("admin"))
    annotator = caller_of(house, house.tokens.create("annotator"))
    assert (admin.scopes, annotator.scopes) == ((), ())
    assert all(admin.may_use(scope) for scope in ("select", "infer", "runs"))
    assert not annotator.may_use("infer")
    assert not annotator.sees_money
    both = caller_of(house, house.tokens.create(scopes=["annotate", "infer"]))
    assert (both.role, both.scopes) == ("annotator", ("infer",))
    assert caller_of(house, house.tokens.create(scopes=["admin", "infer"])).role == "admin"


def test_members_of_a_run_come_and_go(house: House) -> None:
    house.journal.create_run("news-1", {}, "")
    house.tokens.create("annotator", "ann", runs=["other"])
    house.tokens.create("annotator", "all")
    admin = bearer(house.tokens.create("admin", "root"))
    path = "/api/v1/runs/news-1/members"
    names = [row["name"] for row in house.client.get(path, headers=admin).json()]
    assert names == ["all", "root"]
    for member in (True, True):
        body = {"person": "ann", "member": member}
        assert house.client.put(path, headers=admin, json=body).status_code == 200
    assert "ann" in [row["name"] for row in list_members(house.journal, "news-1")]
    set_member(house.journal, "ann", "news-1", False)
    assert "ann" not in [row["name"] for row in list_members(house.journal, "news-1")]
    with pytest.raises(UserError, match="which is for all runs"):
        set_member(house.journal, "all", "news-1", False)
    with pytest.raises(UserError, match="did you mean 'ann'"):
        set_member(house.journal, "anm", "news-1", True)


def test_a_stream_of_a_run_that_is_taken_back_is_over(house: House) -> None:
    house.journal.create_run("news-1", {}, "")
    caller = caller_of(house, house.tokens.create("annotator", "ann", runs=["news-1"]))
    assert house.tokens.is_active(caller, "news-1")
    set_member(house.journal, "ann", "news-1", False)
    assert not house.tokens.is_active(caller, "news-1")
    assert house.tokens.is_active(caller)


# ---- rates and budgets


def test_requests_a_minute_are_bounded_with_a_time_to_wait(house: House) -> None:
    token = bearer(house.tokens.create("annotator", minute_requests=3))
    answers = [house.client.get("/api/v1/runs", headers=token) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20
    assert "3 requests in a minute" in answers[-1].json()["error"]["message"]
    free = bearer(house.tokens.create("annotator"))
    assert house.client.get("/api/v1/runs", headers=free).status_code == 200


def test_a_bucket_fills_evenly() -> None:
    now = 0.0
    rates = RequestRates(lambda: now)
    caller = Caller("t", "program", "t", minute_requests=60)
    for _ in range(60):
        rates.take(caller, None)
    with pytest.raises(ApiError) as refused:
        rates.take(caller, None)
    assert refused.value.retry_after == 1
    now = 1.0
    rates.take(caller, None)
    with pytest.raises(ApiError):
        rates.take(caller, None)
    other = Caller("u", "program", "u")
    for _ in range(2):
        rates.take(other, 2)
    with pytest.raises(ApiError):  # the service's own limit is for tokens without one
        rates.take(other, 2)


def ask(stream: bool = False) -> ChatBody:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "stream": stream}
    return ChatBody.model_validate(body)


def test_tokens_of_models_a_day_are_bounded_over_replicas(house: House) -> None:
    now = 20_000 * DAY + DAY / 2
    token = caller_of(house, house.tokens.create(scopes=["infer"], day_tokens=100))
    budgets = [ModelBudget(house.journal.database, lambda: now) for _ in range(2)]
    meter = Meter(budgets[0], token, ask())
    meter.read({"usage": {"total_tokens": 100}})
    meter.close()
    for budget in budgets:  # the other replica knows it from the database
        with pytest.raises(ApiError, match="used 100 tokens of models today") as refused:
            budget.check(token)
        assert refused.value.retry_after == DAY / 2
    now += DAY
    budgets[1].check(token)
    budgets[1].check(Caller("t", "admin", "t"))


def test_a_stream_counts_its_usage_and_a_caller_who_leaves_pays_too(house: House) -> None:
    caller = caller_of(house, house.tokens.create(scopes=["infer"], day_tokens=10_000))
    budget = ModelBudget(house.journal.database)
    whole = Meter(budget, caller, ask(stream=True))
    assert whole.look('data: {"choices": [{"delta": {"content": "a"}}]}\n\n', False)
    assert not whole.look('data: {"choices": [], "usage": {"total_tokens": 70}}\n\n', False)
    assert whole.look("data: [DONE]\n\n", False)
    whole.close()
    assert budget.count(caller.id, time.time()) == 70
    left = Meter(budget, caller, ask(stream=True))
    left.look('data: {"choices": [{"delta": {"content": "a"}}]}\n\n', False)
    left.close()
    assert budget.count(caller.id, time.time()) > 170  # the question has 400 characters
