"""The HTTP API over the whole application: who gets in, what is refused, and what every route
answers.
"""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
from helpers.annotator_routes import ALLOWED
from helpers.process_names import read_command
from helpers.services import Service, bearer
from hypothesis import HealthCheck, given, settings
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from atgen_ray.config import LimitsConfig
from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.middleware import AuthMiddleware, access_log
from atgen_ray.serving.security.login import Sessions
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import AuditLog
from atgen_ray.store.database import Database

METHODS = ("get", "post", "put", "delete", "patch")
FOR_ANNOTATORS = {
    ("get", "/healthz"),
    ("get", "/readyz"),
    *((method.lower(), path) for method, path in ALLOWED if path.startswith("/api/")),
}


@pytest.fixture(scope="session")
def schema(service: Service) -> Any:
    return service.client().get("/openapi.json").json()


def operations(schema: Any) -> list[tuple[str, str]]:
    return [
        (method, path)
        for path, item in schema["paths"].items()
        for method in item
        if method in METHODS
    ]


def fill(path: str) -> str:
    values = {"{name}": "sort", "{job}": "selection-1", "{id}": "e00", "{number}": "1"}
    for name, value in values.items():
        path = path.replace(name, value)
    return path


def test_every_route_but_health_wants_a_token_and_the_right_role(
    service: Service, schema: Any
) -> None:
    known = operations(schema)
    assert {
        ("post", "/api/v1/select"),
        ("post", "/api/v1/runs"),
        ("post", "/v1/chat/completions"),
    } <= set(known)
    with httpx.Client(base_url=service.url, timeout=60) as client:
        for method, path in [*known, ("get", "/openapi.json"), ("get", "/nowhere"), ("post", "/")]:
            health = path in ("/healthz", "/readyz")
            for headers in (
                {},
                bearer("nonsense"),
                bearer(service.admin + "x"),
                {"Authorization": service.admin},
            ):
                answer = client.request(method, fill(path), headers=headers, content=b"not json")
                assert answer.status_code == (200 if health else 401), (method, path, headers)
                assert health or answer.headers["WWW-Authenticate"] == "Bearer"
        for method, path in known:
            answer = client.request(method, fill(path), headers=bearer(service.annotator))
            expected_403 = (method, path) not in FOR_ANNOTATORS
            assert (answer.status_code == 403) is expected_403, (method, path, answer.status_code)


def test_names_that_leave_the_storage_are_refused(service: Service) -> None:
    with service.client() as client:
        for name in (
            "..",
            "%2e%2e",
            "..%2f..%2fetc",
            "a%00b",
            "A",
            "x" * 300,
            "a%5cb",
            "-a",
            "sort%0a",
            "%F0%9F%98%80",
        ):
            answer = client.get(f"/api/v1/runs/{name}/metrics")
            assert answer.status_code in (404, 422), (name, answer.status_code)
            assert answer.json()["error"]["message"]


def test_a_large_body_is_refused_declared_or_not(service: Service) -> None:
    def chunks() -> Any:
        for _ in range(400):
            yield b" " * 1000

    with service.client() as client:
        assert client.post("/api/v1/select", content=b" " * 400_000).status_code == 413
        assert client.post("/api/v1/select", content=chunks()).status_code == 413


def test_health_readiness_and_metrics(service: Service) -> None:
    with service.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}
        text = client.get("/metrics").text
        view = client.get("/api/v1/runs/sort").json()
    assert view["annotation"] == {
        "requests": {},
        "batches": [],
        "paid": 5.0,
        "held": 0.0,
        "inherited": 0,
        "provider": None,
    }
    assert 'atgen_run_round{run="sort"} 2.0' in text
    assert 'atgen_run_labels{run="sort"} 10.0' in text
    assert 'atgen_run_dollars{run="sort"} 5.0' in text
    assert 'atgen_run_status{run="sort",status="finished"} 1.0' in text


def test_the_access_log_tells_who_did_what_and_no_secret(tmp_path: Path) -> None:
    """In this process, with everything real but Serve."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    access_log.addHandler(handler)
    access_log.setLevel(logging.INFO)
    database = Database(f"sqlite:///{tmp_path}/atgen.db")
    tokens = Tokens(database)
    token = tokens.create("admin")
    auditor = Auditor(AuditLog(database))
    client = TestClient(
        AuthMiddleware(
            PlainTextResponse("fine"), tokens, Sessions(database), auditor, LimitsConfig()
        )
    )
    client.post("/v1/x?key=canary-1", headers=bearer(token), content="canary-2")
    client.post("/v1/x", headers=bearer("canary-3"), content="canary-4")
    access_log.removeHandler(handler)
    told = [json.loads(line) for line in lines]
    assert [(line["method"], line["path"], line["status"]) for line in told] == [
        ("POST", "/v1/x", 200),
        ("POST", "/v1/x", 401),
    ]
    assert told[0]["token"] == token.split("_")[1]
    assert "canary" not in "".join(lines)
    assert token.split("_", 2)[2] not in "".join(lines)


def test_no_request_breaks_the_service(service: Service, schema: Any) -> None:
    """Schemathesis over every route, with and without sense: no answer is the server's fault."""
    headers = bearer(service.admin)
    api = schemathesis.openapi.from_dict(schema)
    tried = 0

    for result in api.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]

        @settings(
            max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            answer = case.call(base_url=service.url, headers=headers, timeout=60)
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.status_code)

        check()
    assert tried > 100


def test_more_requests_than_are_taken_get_429_and_memory_stays(service: Service) -> None:
    """1,000 selections at once: each is answered or refused at once, and the API replica does not
    grow.
    """
    body = {
        "examples": [
            {"id": f"e{index}", "text": f"sort these words {index}"} for index in range(20)
        ],
        "strategy": "random",
        "count": 3,
    }

    def api() -> psutil.Process:
        children = psutil.Process().children(recursive=True)
        return next(
            child for child in children if "ServeReplica:atgen:api" in " ".join(read_command(child))
        )

    own = (
        threading.local()
    )  # a client a thread: httpcore's pool may close what another thread has just begun to use
    context = httpx.create_ssl_context()  # unused, and slow to make 400 times

    def connect() -> None:
        own.client = httpx.Client(
            base_url=service.url, headers=bearer(service.admin), timeout=120, verify=context
        )

    def post(_: int) -> tuple[int, str | None]:
        answer = own.client.post("/api/v1/select", json=body)
        if answer.status_code == 200:
            assert len(answer.json()["selected"]) == 3
        return answer.status_code, answer.headers.get("Retry-After")

    with service.client() as client, ThreadPoolExecutor(400, initializer=connect) as pool:
        assert pool.submit(post, 0).result()[0] == 200
        list(pool.map(post, range(200)))
        before = api().memory_info().rss
        answers = list(pool.map(post, range(1000)))
        after = api().memory_info().rss
        assert client.get("/readyz").status_code == 200
    statuses = {status for status, _ in answers}
    assert statuses <= {200, 429}
    assert {200, 429} <= statuses
    assert all(retry == "2" for status, retry in answers if status == 429)
    assert after - before < 50 * 2**20
