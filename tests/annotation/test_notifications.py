"""Notices over a real socket: a webhook and a mail server that note what they are sent, or refuse
it.
"""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from atgen_ray.annotation.human import notifications as notices
from atgen_ray.annotation.human.notifications import Notification, send_notification
from atgen_ray.config import NoticeConfig
from atgen_ray.core.machine import Machine

NOTICE = Notification("sonnets", 2, 40, "https://label.example.org/annotate/sonnets")


@contextmanager
def listen(handler: Any) -> Iterator[tuple[int, list[Any]]]:
    """The port of a server, and what it was sent."""
    kind = HTTPServer if issubclass(handler, BaseHTTPRequestHandler) else socketserver.TCPServer
    with kind(("127.0.0.1", 0), handler) as server:
        server.heard = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1], server.heard  # type: ignore[attr-defined]
        server.shutdown()
        thread.join(10)


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, json.loads(body)))  # type: ignore[attr-defined]
        status = {"/gone": 500, "/moved": 302}.get(self.path, 204)
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            verb = line.strip().split(b" ")[0].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self.server.heard.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
            if verb == b"QUIT":
                return


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "sleep", lambda machine, seconds: None)
    monkeypatch.delenv(notices.WEBHOOK, raising=False)


def test_a_webhook_is_told() -> None:
    with listen(Hook) as (port, heard):
        told = send_notification(
            NoticeConfig(webhook=f"http://127.0.0.1:{port}/hook?room=1"), NOTICE
        )
    assert told == ["webhook sent"]
    ((path, body),) = heard
    assert path == "/hook?room=1"
    assert (body["run"], body["round"], body["tasks"], body["page"]) == (
        "sonnets",
        2,
        40,
        NOTICE.page,
    )
    assert "40 new tasks" in body["text"]


def test_a_webhook_with_a_secret_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listen(Hook) as (port, heard):
        monkeypatch.setenv(notices.WEBHOOK, f"http://127.0.0.1:{port}/gone")
        told = send_notification(NoticeConfig(), NOTICE)
    assert told == ["webhook failed: it answered with status 500"]
    assert len(heard) == notices.TRIES


def test_a_redirect_is_not_followed_and_a_dead_host_stops_nobody() -> None:
    with listen(Hook) as (port, heard):
        told = send_notification(NoticeConfig(webhook=f"http://127.0.0.1:{port}/moved"), NOTICE)
    assert told == ["webhook failed: it answered with status 302"]
    assert {path for path, _ in heard} == {"/moved"}
    (fate,) = send_notification(NoticeConfig(webhook=f"http://127.0.0.1:{port}/hook"), NOTICE)
    assert fate.startswith("webhook failed")


def test_people_get_an_e_mail() -> None:
    with listen(Mail) as (port, heard):
        email: dict[str, Any] = {
            "to": ["ann@example.org", "bea@example.org"],
            "sender": "runs@example.org",
        }
        email |= {"host": "127.0.0.1", "port": port, "security": "none"}
        assert send_notification(NoticeConfig.model_validate({"email": email}), NOTICE) == [
            "e-mail sent"
        ]
    (message,) = heard
    assert "To: ann@example.org, bea@example.org" in message
    assert "40 new tasks at https://label.example.org/annotate/sonnets" in message.replace(
        "\r\n ", " "
    )
