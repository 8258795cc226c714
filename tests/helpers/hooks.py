"""Where notifications go: a webhook and a mail server that note what they are sent, or refuse it."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Heard:
    """The server that listened last: what it was sent as it came."""

    server: Any


@contextmanager
def listen(handler: Any) -> Iterator[tuple[int, list[Any]]]:
    """The port of a server, and what it was sent."""
    kind = HTTPServer if issubclass(handler, BaseHTTPRequestHandler) else socketserver.TCPServer
    with kind(("127.0.0.1", 0), handler) as server:
        server.heard = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        Heard.server = server
        yield server.server_address[1], server.heard  # type: ignore[attr-defined]
        server.shutdown()
        thread.join(10)


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, json.loads(body)))  # type: ignore[attr-defined]
        self.server.raw = (body.decode(), dict(self.headers))  # type: ignore[attr-defined]
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
