"""What callers without a token, and one annotator alone, can take from everybody else: raw sockets
beside real clients.

The service is the real one but for Ray, behind a real HTTP server.
"""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from helpers.human_desk import HumanDesk
from helpers.services import bearer

from atgen_ray.config import LimitsConfig, ServiceConfig
from atgen_ray.serving import readiness as readiness_module
from atgen_ray.serving.application import create_api
from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.middleware import AuthMiddleware
from atgen_ray.serving.readiness import Readiness
from atgen_ray.serving.security.login import Sessions
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import AuditLog
from atgen_ray.store.database import Database
from atgen_ray.store.journal import Journal

LIMIT = 20.0  # seconds, for what must come


class Front:
    """The service in a thread, who may come in, and the sockets of those who keep silent."""

    def __init__(self, storage: Path, stack: ExitStack, limits: dict[str, Any]) -> None:
        journal = Journal(f"sqlite:///{storage}/atgen.db")
        stack.callback(journal.close)
        desk = HumanDesk(journal)
        desk.publish_tasks()
        tokens = Tokens(journal.database)
        self.run = desk.run
        self.admin, self.ann, self.bea = (
            tokens.create(role) for role in ("admin", "annotator", "annotator")
        )
        app = create_api(
            ServiceConfig(storage=str(storage), limits=LimitsConfig(**limits)), None, None
        )
        self.port = stack.enter_context(run_server(app))
        self.url = f"http://127.0.0.1:{self.port}"
        self._stack = stack

    def get(self, path: str, token: str = "") -> httpx.Response:
        return httpx.get(self.url + path, headers=bearer(token) if token else {}, timeout=LIMIT)

    def sign_in(self, token: str) -> httpx.Response:
        return httpx.post(
            self.url + "/sign-in",
            data={"token": token},
            headers={"Origin": self.url},
            timeout=LIMIT,
        )

    def keep_back(
        self, path: str, length: int = 100, token: str = "", method: str = "POST"
    ) -> socket.socket:
        """A request whose body does not come."""
        connection = self._stack.enter_context(
            socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)
        )
        known = f"Authorization: Bearer {token}\r\n" if token else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{known}"
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + b"token="[:length])
        return connection


@contextmanager
def run_server(app: Any) -> Iterator[int]:
    """The port of a real HTTP server."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = server.force_exit = True
    thread.join(LIMIT)


@pytest.fixture
def open_front(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Opens a service with limits of its own."""
    with ExitStack() as stack:
        yield lambda **limits: Front(tmp_path, stack, limits)


def status_of(connection: socket.socket) -> int:
    """The status of the answer that comes."""
    head = b""
    while b"\r\n" not in head:
        part = connection.recv(4096)
        assert part, "closed without an answer"
        head += part
    return int(head.split()[1])


def test_unfinished_sign_ins_keep_nobody_out_nor_a_person_from_signing_in(
    open_front: Callable[..., Front],
) -> None:
    front = open_front(requests=8, sign_ins=4, sign_in_seconds=600)
    silent = [front.keep_back("/sign-in") for _ in range(60)]
    assert front.get("/healthz").status_code == 200
    assert front.get("/api/v1/runs", front.admin).status_code == 200
    assert front.get("/sign-in").status_code == 200
    assert front.sign_in(front.ann).status_code == 303
    assert [status_of(connection) for connection in silent[:50]] == [
        408
    ] * 50  # those who came first gave way
    silent[-1].settimeout(0.05)
    with pytest.raises(TimeoutError):
        silent[-1].recv(1)


def test_a_sign_in_is_small(open_front: Callable[..., Front]) -> None:
    front = open_front()
    assert status_of(front.keep_back("/sign-in", 8 * 2**20)) == 413  # before any of it has come

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    answer = httpx.post(front.url + "/sign-in", content=chunks(), timeout=LIMIT)
    assert answer.status_code == 413
    assert front.sign_in(front.admin).status_code == 303
    assert front.sign_in("x" * 4000).status_code == 401


def test_nobody_waits_for_the_body_of_a_caller_without_a_token(
    open_front: Callable[..., Front],
) -> None:
    front = open_front(requests=4)
    for path in (
        "/api/v1/select",
        "/api/v1/uploads/a.csv",
        "/v1/chat/completions",
        "/nowhere",
        "/openapi.json",
    ):
        for token in ("", "nonsense"):
            assert status_of(front.keep_back(path, 8 * 2**20, token)) == 401, path
    for path in ("/healthz", "/static/x/style.css"):
        assert status_of(front.keep_back(path, 8 * 2**20, method="GET")) == 200
    assert front.get("/api/v1/runs", front.admin).status_code == 200


@pytest.mark.parametrize("path", ["/sign-in", "/api/v1/select", "/api/v1/uploads/a.csv"])
def test_a_body_that_does_not_come_is_given_up(open_front: Callable[..., Front], path: str) -> None:
    front = open_front(sign_in_seconds=0.2, body_seconds=0.2)
    method = "PUT" if "uploads" in path else "POST"
    slow = front.keep_back(path, 100, front.admin, method)
    answer = b""
    while part := slow.recv(4096):  # until the server closes: the connection is given up too
        answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not come in time" in answer


def test_an_upload_that_drips_is_given_up_as_a_whole(open_front: Callable[..., Front]) -> None:
    front = open_front(upload_seconds=0.3)
    slow = front.keep_back("/api/v1/uploads/a.csv", 10**6, front.admin, "PUT")
    slow.settimeout(0.02)
    answer = b""
    while not answer:
        slow.sendall(b"x")
        try:
            answer = slow.recv(4096)
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_one_annotator_s_unfinished_bodies_are_its_own_matter(
    open_front: Callable[..., Front],
) -> None:
    front = open_front(requests=8, annotator_requests=4)
    lease = f"/api/v1/runs/{front.run}/tasks/lease"
    # One of five is answered: the other four have their places then.
    silent = [front.keep_back(lease, 100, front.ann) for _ in range(5)]
    [answered], _, _ = select.select(silent, [], [], LIMIT)
    assert status_of(answered) == 429
    refused = front.get("/api/v1/runs", front.ann)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "2"
    assert "of this token" in refused.json()["error"]["message"]
    assert front.get("/api/v1/runs", front.bea).status_code == 200
    assert front.get("/api/v1/runs", front.admin).status_code == 200


def test_event_streams_are_counted_by_token_and_take_no_place_of_requests(
    open_front: Callable[..., Front],
) -> None:
    front = open_front(requests=1, streams=5, token_streams=3)
    path = f"/api/v1/runs/{front.run}/events"
    with ExitStack() as streams:

        def follow(token: str) -> httpx.Response:
            client = streams.enter_context(
                httpx.Client(base_url=front.url, headers=bearer(token), timeout=LIMIT)
            )
            return streams.enter_context(client.stream("GET", path))

        assert [follow(front.ann).status_code for _ in range(3)] == [200] * 3
        refused = follow(front.ann)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
        assert front.get("/api/v1/runs", front.ann).status_code == 200
        assert [follow(front.bea).status_code for _ in range(3)] == [
            200,
            200,
            429,
        ]  # five are all there may be
    wait_for_status(lambda: follow_once(front, path), 200)  # whoever leaves frees its place


def follow_once(front: Front, path: str) -> httpx.Response:
    with httpx.stream("GET", front.url + path, headers=bearer(front.ann), timeout=LIMIT) as answer:
        return answer


def wait_for_status(ask: Callable[[], httpx.Response], status: int) -> httpx.Response:
    deadline = time.monotonic() + LIMIT
    while (answer := ask()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


def test_however_many_ask_whether_it_is_ready_one_thread_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness_module, "READY_SECONDS", 0.05)
    go, looks = threading.Event(), []

    def look() -> None:
        looks.append(1)
        assert go.wait(LIMIT)

    async def scene() -> None:
        readiness = Readiness({"database": look})
        gone = asyncio.create_task(readiness.find())
        await asyncio.sleep(0)
        gone.cancel()
        found = await asyncio.gather(*(readiness.find() for _ in range(100)))
        assert found == [{"database": "no answer in 0.05 s"}] * 100  # it hangs
        monkeypatch.setattr(readiness_module, "KEPT_SECONDS", 0.0)
        assert await readiness.find()
        assert len(looks) == 1
        go.set()
        while await readiness.find():
            await asyncio.sleep(0.01)

    asyncio.run(scene())
    assert len(looks) <= 3


def test_a_caller_that_hangs_up_is_no_error_of_the_service(
    tmp_path: Path, logged: list[dict[str, Any]]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/atgen.db")
    tokens = Tokens(database)
    auditor = Auditor(AuditLog(database))
    header = [(b"authorization", f"Bearer {tokens.create('admin')}".encode())]
    head = {"type": "http.response.start", "status": 200, "headers": []}

    async def call(path: str, *messages: dict[str, Any]) -> None:
        """As Serve calls it: it cancels the call when the caller has gone."""
        begun, left = asyncio.Event(), list(messages)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if path == "/broken":
                raise ValueError("broken")
            if path == "/streamed":
                await send(head)
            begun.set()
            await asyncio.sleep(LIMIT)

        async def receive() -> Any:
            if left:
                return left.pop(0)
            begun.set()
            await asyncio.sleep(LIMIT)

        async def send(message: Any) -> None: ...

        scope = {"type": "http", "method": "POST", "path": path, "headers": header, "state": {}}
        task = asyncio.create_task(
            AuthMiddleware(app, tokens, Sessions(database), auditor, LimitsConfig())(
                scope, receive, send
            )
        )
        waiting = asyncio.create_task(begun.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        waiting.cancel()
        await asyncio.wait([task])

    async def scene() -> None:
        whole = {"type": "http.request", "body": b"{}"}
        for path in ("/v1/chat/completions", "/streamed", "/broken"):
            await call(path, whole)
        await call("/half", {"type": "http.request", "body": b"{", "more_body": True})
        await call(
            "/gone",
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        )

    asyncio.run(scene())
    assert [(line["path"], line["status"]) for line in logged] == [
        ("/v1/chat/completions", 499),
        ("/streamed", 200),
        ("/broken", 500),
        ("/half", 499),
        ("/gone", 499),
    ]
