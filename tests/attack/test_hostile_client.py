"""A hostile client against the real application under a ceiling of memory: every request is refused
or answered soon, the process lives, and others are served.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from helpers.ports import free_port
from helpers.services import bearer

from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import events

# Bytes of address space above those of the application at rest, stacks of 40 threads among them.
CEILING = 1 << 30
GROWTH = 400  # MB
PATIENCE = 30.0  # seconds; without the limits some of these take minutes
SERVER = f"""
import sys, resource, uvicorn
from pathlib import Path
from atgen_ray.config import ServiceConfig
from atgen_ray.serving.application import create_api
from atgen_ray.serving.routes import event_stream
event_stream.STALLED_SECONDS = 4.0
limits = {{"person_stored_bytes": 3_000_000}}
app = create_api(ServiceConfig(storage=sys.argv[1], limits=limits), None, None)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {CEILING}, used + {CEILING}))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
"""


@dataclass(frozen=True)
class Target:
    """The server, with the token of an admin."""

    port: int
    process: subprocess.Popen[bytes]
    admin: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> int:
        """The most that it ever held, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) >> 10

    def post(self, path: str, body: bytes) -> int:
        headers = bearer(self.admin) | {"content-type": "application/json"}
        return httpx.post(
            self.url + path, content=body, headers=headers, timeout=PATIENCE
        ).status_code

    def raw(self, data: bytes) -> str:
        """The status of an answer to bytes; empty where the connection was closed."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as line:
                line.sendall(data)
                return line.recv(12)[9:].decode()
        except OSError:
            return ""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    storage = tmp_path_factory.mktemp("hostile")
    journal = Journal(f"sqlite:///{storage}/atgen.db")
    tokens = Tokens(journal.database)
    admin = tokens.create("admin", "root")
    journal.create_run("demo", {"name": "demo"}, "")
    journal.set_status(journal.acquire("demo", ProcessIdentity("x"), 600), "running")
    event = {"run": "demo", "kind": "warning", "payload": {"warning": "w" * 2000}, "time": 1.0}
    with journal.database.writing() as connection:
        rows = [event | {"sequence": at} for at in range(1, 10_001)]
        connection.execute(sa.insert(events), rows)
    journal.close()
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(storage), str(port)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "1"}
    with subprocess.Popen(command, env=environment) as process:
        try:
            target = Target(port, process, admin)
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and target.raw(HEALTH) != "200":
                time.sleep(0.2)
            yield target
        finally:
            process.kill()


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHECK = "/api/v1/configs/check"


def many_fields(target: Target) -> int:
    fields = b",".join(b'"k%d": 1' % at for at in range(300_000))
    return target.post(CHECK, b'{"config": {' + fields + b"}}")


def same_upload_again_and_again(target: Target) -> int:
    for at in range(4):
        body = b'{"a": "%d' % at + b"x" * 1_000_000 + b'"}\n'
        answer = httpx.put(
            f"{target.url}/api/v1/uploads/a.jsonl",
            content=body,
            headers=bearer(target.admin),
            timeout=PATIENCE,
        )
    return answer.status_code


def streams_that_nobody_reads(target: Target) -> int:
    request = f"GET /api/v1/runs/demo/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.admin}\r\n\r\n"
    lines = []
    for _ in range(20):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", target.port))
        line.sendall(request.encode())
        lines.append(line)
    deadline = time.monotonic() + PATIENCE
    while (refused := target.raw(request.encode())) == "200" and time.monotonic() < deadline:
        time.sleep(0.1)  # not all of them have been taken yet
    deadline = time.monotonic() + PATIENCE  # by then they are ended, and their places are free
    while (again := target.raw(request.encode())) != "200" and time.monotonic() < deadline:
        time.sleep(0.5)
    for line in lines:
        line.close()
    assert again == "200"
    return int(refused)


ATTACKS: dict[str, tuple[Callable[[Target], object], tuple[object, ...]]] = {
    "deep objects": (
        lambda it: it.post(CHECK, b'{"config": ' + b'{"a":' * 500_000 + b"1" + b"}" * 500_001),
        (400, 422),
    ),
    "deep lists": (
        lambda it: it.post("/api/v1/runs", b'{"a": ' + b"[" * 3_000_000 + b"]" * 3_000_000 + b"}"),
        (400, 422),
    ),
    "many fields": (many_fields, (422,)),
    "a number of millions of digits": (
        lambda it: it.post(CHECK, b'{"config": {"seed": ' + b"9" * 8_000_000 + b"}}"),
        (200, 400, 422),
    ),
    "a template that blows up": (
        lambda it: it.post(CHECK, b'{"config": {"prompt": {"template": "{{ \'x\'|center(900000000) }}"}}}'),
        (200,),
    ),
    "an offset beyond all": (
        lambda it: it.raw(
            f"GET /api/v1/runs/demo/disputes?offset=10000000 HTTP/1.1\r\nHost: x\r\nAuthorization: "
            f"Bearer {it.admin}\r\n\r\n".encode()
        ),
        ("404", "409"),
    ),
    "uploads until the disk is full": (same_upload_again_and_again, (507,)),
    "streams that nobody reads": (streams_that_nobody_reads, (429,)),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_service_outlives_it(target: Target, attack: str) -> None:
    before = target.memory()
    act, expected = ATTACKS[attack]
    assert act(target) in expected
    assert target.process.poll() is None
    assert target.raw(HEALTH) == "200"
    assert target.memory() - before < GROWTH
