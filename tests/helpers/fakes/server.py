"""Runs the stand-in for OpenAI and Anthropic: `python server.py FOLDER` prints its port and serves
until it is ended.

It speaks both wires over HTTP, keeps its state in FOLDER/fake.db and bills every row that it
answers. Rules, given over HTTP, make it fail: see `Rule` in provider.py.
"""

import json
import os
import signal
import socket
import sys
import time
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import anthropic_wire
import azure_wire
import gemini_wire
import mistral_wire
import openai_wire
from state import SETTINGS, State

WIRES = (openai_wire, azure_wire, anthropic_wire, mistral_wire, gemini_wire)
ROUTES = {route: serve for wire in WIRES for route, serve in wire.ROUTES.items()}


class Handler(BaseHTTPRequestHandler):
    """One request: finds its route, does what a rule says, and answers."""

    protocol_version = "HTTP/1.1"
    state: ClassVar[State]

    def do_GET(self) -> None:
        self.serve("GET")

    def do_DELETE(self) -> None:
        self.serve("DELETE")

    def do_POST(self) -> None:
        self.serve("POST")

    def serve(self, method: str) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if parts.path.startswith("/_fake/"):
            self.reply(
                200, self.control(parts.path.removeprefix("/_fake/"), json.loads(raw or b"null"))
            )
            return
        name, arguments = match(method, parts.path)
        rule = self.state.take_rule(name, method)
        self.state.log(f"{method} {parts.path}")
        age = self.state.resets
        time.sleep(self.state.settings["latency"] + rule.get("delay", 0))
        if self.state.resets != age:  # a call of an earlier test, which has given it up
            self.drop()
            return
        if not self.authorized():
            said = self.headers.get("authorization") or self.headers.get("x-api-key") or ""
            self.reply(401, error("invalid_api_key", f"Incorrect API key provided: {said}"))
            return
        if "kill" in rule and rule["kill"] == "before":
            self.kill()
            return
        if rule.get("drop") == "before":
            self.drop()
            return
        if "body" in rule:
            self.reply(200, rule["body"])
            return
        if "status" in rule:
            headers = {"retry-after": str(rule["retry_after"])} if "retry_after" in rule else {}
            self.reply(
                rule["status"],
                error(rule.get("code", "error"), rule.get("message", "a fault")),
                headers,
            )
            return
        try:
            answer = (
                ROUTES[name](self.state, {**arguments, **self.body(raw, parts.query)})
                if name
                else None
            )
        except LookupError as missing:
            self.reply(404, error("not_found", str(missing)))
            return
        if answer is None:
            self.reply(404, error("not_found", self.path))
        elif "kill" in rule:
            self.kill()
        elif rule.get("drop") == "after":
            self.drop()
        elif "malformed" in rule:
            self.reply(200, rule["malformed"])
        elif "cut" in rule:
            self.reply(200, answer[: int(len(answer) * rule["cut"])])
        else:
            self.reply(200, answer)

    def authorized(self) -> bool:
        key = self.state.settings["key"]
        said = (
            (self.headers.get("authorization") or "").removeprefix("Bearer ")
            or self.headers.get("x-api-key")
            or self.headers.get("x-goog-api-key")
            or self.headers.get("api-key")
        )
        return key is None or said == key

    def body(self, raw: bytes, query: str) -> dict[str, Any]:
        """The JSON body, the parts of a form, or the query."""
        kind = self.headers.get("content-type") or ""
        if kind.startswith("multipart/"):
            message = BytesParser(policy=HTTP).parsebytes(
                b"Content-Type: " + kind.encode() + b"\r\n\r\n" + raw
            )
            names: dict[str, Any] = {
                str(part.get_param("name", header="content-disposition")): part
                for part in message.iter_parts()
            }
            form = {
                name: part.get_payload(decode=True).decode().removesuffix("\r\n")
                for name, part in names.items()
            }
            return form | {"file name": names["file"].get_filename()}
        if raw:
            return dict(json.loads(raw))
        return {name: values[0] for name, values in parse_qs(query).items()}

    def control(self, what: str, value: Any) -> Any:
        if what == "rules":
            self.state.rules += value
        elif what == "settings":
            self.state.settings |= value
        elif what == "client":
            self.state.client = value
        elif what == "recover":
            self.state.rules, self.state.settings = [], dict(SETTINGS)
        elif what == "reset":
            self.state.reset()
        return {"log": self.state.calls} if what == "log" else {}

    def kill(self) -> None:
        """Ends the client with SIGKILL, wherever it is."""
        os.kill(self.state.client, signal.SIGKILL)
        self.drop()

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def reply(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):  # the client is gone
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None: ...


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # else the client is gone
            super().handle_error(request, client_address)


def match(method: str, path: str) -> tuple[str, dict[str, str]]:
    """The name of the route, with {id} for what varies, and what stands for it."""
    for name in ROUTES:
        verb, pattern = name.split(" ")
        theirs, ours = path.strip("/").split("/"), pattern.strip("/").split("/")
        if verb == method and len(theirs) == len(ours):
            pairs = list(zip(ours, theirs, strict=True))
            if all(our == their or our.startswith("{") for our, their in pairs):
                return name, {our.strip("{}"): their for our, their in pairs if our.startswith("{")}
    return "", {}


def error(code: str, message: str) -> dict[str, Any]:
    """An error as both wires have it."""
    return {
        "type": "error",
        "error": {"type": code, "code": code, "message": message, "param": None},
    }


def main() -> None:
    Handler.state = State(Path(sys.argv[1]))
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
