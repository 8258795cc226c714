"""The paid provider's server, behind the real client of OpenAI's protocol: its bill, its batch jobs,
its lists, and what goes wrong on the way to it and back.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs

import httpx2
from helpers.fakes.state import think

from atgen_ray.annotation.providers import chat_wire as client

from .world import Process, World

# Before the request does anything: nothing is billed.
BEFORE = ("refused-connection", "request-lost", "rate-limit", "unavailable")
# After it was done.
AFTER = ("reply-lost", "bad-gateway", "late")
# Seconds that the provider may work on after we have given up a call, and until what was created
# shows in its lists; together less than `Timeouts.lookup`.
LATE = 15.0
HIDDEN = 30.0
FLOW = ("validating", "in_progress", "finalizing")


@dataclass(frozen=True)
class Billed:
    """One answer that is billed."""

    custom_id: str
    prompt: int
    output: int


@dataclass
class Server:
    """The provider. Its state is that of the world: no death of ours touches it."""

    world: World
    remembers: bool = True  # whether what was created can be looked up
    changed: Callable[[], None] = lambda: None
    holds: Callable[[Process], bool] = lambda process: True  # whether it has the lease
    bills: list[Billed] = field(default_factory=list)
    # Of requests that left a machine which was paused in the middle of the call until it had lost
    # its lease: nobody can call them back.
    late: list[Billed] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    _process: Process = field(default_factory=lambda: Process("provider", mortal=False))
    _stored: list[dict[str, Any]] = field(default_factory=list)
    _files: dict[str, str] = field(default_factory=dict)
    _batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request, as the network lets it. What has reached the server is done, whatever
        becomes of who sent it.
        """
        path = request.url.path.removeprefix("/v1")
        route = f"{request.method} {re.sub('(batch|file)[_-][^/]+', '*', path)}"
        self.calls[route] += 1
        patience = self._wait_of(request)
        # A server that remembers nothing is trusted to bill no answer with an error status.
        after = AFTER if self.remembers else tuple(each for each in AFTER if each != "bad-gateway")
        fault = self.world.edge(f"request {route}", *BEFORE, *after)
        if fault == "refused-connection":
            raise httpx2.ConnectError("refused", request=request)
        if fault == "request-lost":
            self.world.sleep(patience)
            raise httpx2.ReadTimeout("no answer", request=request)
        if fault == "rate-limit":
            wait = {"retry-after": f"{self._draw(0.5, 20):.1f}"}
            return httpx2.Response(429, json=_error("rate_limit_exceeded"), headers=wait)
        if fault == "unavailable":
            return httpx2.Response(503, json=_error("overloaded"))
        assert self.world.current is not None
        sender = self.world.current.process
        request.extensions["late"] = sender.was_paused and not self.holds(sender)
        done = self.world.event()
        responses: list[httpx2.Response] = []

        def serve() -> None:
            late = patience + self._draw(0.0, LATE) if fault == "late" else self._draw(0.01, 0.2)
            self.world.sleep(late)
            responses.append(self._do(request, path))
            done.set()

        self.world.spawn(self._process, serve)
        if not done.wait(patience):
            raise httpx2.ReadTimeout("no answer", request=request)
        self.world.edge(f"answered {route}")
        if fault == "reply-lost":
            raise httpx2.ReadError("connection reset", request=request)
        if fault == "bad-gateway":
            return httpx2.Response(502, json=_error("bad gateway"))
        return responses[0]

    def _wait_of(self, request: httpx2.Request) -> float:
        return float(request.extensions["timeout"]["read"])

    def _draw(self, least: float, most: float) -> float:
        return self.world.chance.uniform(least, most)

    def _do(self, request: httpx2.Request, path: str) -> httpx2.Response:
        method = request.method
        late = bool(request.extensions["late"])
        parts = path.strip("/").split("/")
        if path == "/chat/completions" and method == "POST":
            self.world.sleep(self._draw(0.2, 3.0))
            return httpx2.Response(200, json=self._complete(json.loads(request.content), late))
        if path == "/chat/completions":
            query = {k: v[0] for k, v in parse_qs(request.url.query.decode()).items()}
            wanted = {k[9:-1]: v for k, v in query.items() if k.startswith("metadata[")}
            found = [
                each
                for each in self._stored
                if wanted.items() <= each["metadata"].items() and each["seen"] <= self.world.now
            ]
            return httpx2.Response(200, json={"object": "list", "data": found, "has_more": False})
        if path == "/files":
            id_ = f"file-{len(self._files)}"
            content = bytes(request.read())
            lines = next(
                part.partition(b"\r\n\r\n")[2].rpartition(b"\r\n")[0].decode()
                for part in content.split(b"--" + content[2 : content.index(b"\r\n")])
                if b"filename=" in part
            )
            self._files[id_] = lines
            return httpx2.Response(200, json={"id": id_, "object": "file"})
        if parts[0] == "files":
            return httpx2.Response(200, text=self._files[parts[1]])
        if path == "/batches" and method == "POST":
            return httpx2.Response(200, json=self._create(json.loads(request.content), late))
        if path == "/batches":
            shown = [
                self._show(batch)
                for batch in reversed(self._batches.values())
                if batch["seen"] <= self.world.now
            ]
            return httpx2.Response(200, json={"object": "list", "data": shown, "has_more": False})
        batch = self._batches[parts[1]]
        if parts[-1] == "cancel":
            batch["ends"] = min(batch["ends"], self.world.now + 5.0)
        if batch["lost_until"] > self.world.now:
            return httpx2.Response(404, json=_error("no such batch"))
        return httpx2.Response(200, json=self._show(batch))

    def _complete(self, body: dict[str, Any], late: bool) -> dict[str, Any]:
        metadata = body.get("metadata") or {}
        said = self._say(metadata.get("atgen_request", ""), body, late)
        if body.get("store"):
            seen = self.world.now + self._draw(0.0, HIDDEN) * self._rarely(0.3)
            self._stored.append(said | {"metadata": metadata, "seen": seen})
        return said

    def _rarely(self, share: float) -> bool:
        return self.world.chance.random() < share

    def _say(self, custom_id: str, body: dict[str, Any], late: bool) -> dict[str, Any]:
        """Answer and bill."""
        system, *turns = body["messages"]
        text, finish = think(system["content"], turns, 0)
        limit = int(body.get("max_completion_tokens") or body["max_tokens"])
        if len(text) // 4 + 1 > limit:
            text, finish = text[: 4 * limit], "length"
        prompt = (len(system["content"]) + sum(len(turn["content"]) for turn in turns)) // 4
        output = min(limit, len(text) // 4 + 1)
        number = len(self.bills) + len(self.late)
        (self.late if late else self.bills).append(
            Billed(custom_id or f"answer-{number}", prompt, output)
        )
        self.world.note(f"bills {custom_id}")
        self.changed()
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "id": f"answer-{number}",
            "object": "chat.completion",
            "created": int(self.world.time()),
            "model": body["model"],
            "choices": [
                {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
            ],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output},
        }

    def _create(self, body: dict[str, Any], late: bool) -> dict[str, Any]:
        lines = [
            json.loads(line) for line in self._files[body["input_file_id"]].splitlines() if line
        ]
        now = self.world.now
        id_ = f"batch_{len(self._batches)}"
        expires = self.world.chance.random() < 0.15  # some rows are never answered, nor billed
        answered = lines[: len(lines) - 1] if expires else lines
        good = [
            self._row(line, self._say(line["custom_id"], line["body"], late)) for line in answered
        ]
        bad = [
            {"id": "r", "custom_id": line["custom_id"], "response": None}
            | {"error": {"code": "batch_expired", "message": "expired"}}
            for line in lines[len(answered) :]
        ]
        self.world.chance.shuffle(good)
        if good and self._rarely(0.1):
            good.append(good[0])  # the same row twice
        for name, rows in (("out", good), ("bad", bad)):
            self._files[f"{id_}-{name}"] = "".join(json.dumps(row) + "\n" for row in rows)
        self._batches[id_] = {
            "id": id_,
            "object": "batch",
            "created_at": int(self.world.time()),
            "metadata": body.get("metadata"),
            "ends": now + self._draw(1.0, 120.0),
            "seen": now + self._draw(0.0, HIDDEN) * self._rarely(0.3),
            "lost_until": now + self._draw(0.0, 60.0) * self._rarely(0.2),
            "bad": bool(bad),
            "counts": {"total": len(lines), "completed": len(answered), "failed": len(bad)},
        }
        return self._show(self._batches[id_])

    def _row(self, line: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        response = {"status_code": 200, "request_id": "r", "body": body}
        return {"id": "r", "custom_id": line["custom_id"], "error": None, "response": response}

    def _show(self, batch: dict[str, Any]) -> dict[str, Any]:
        ended = batch["ends"] <= self.world.now
        left = batch["ends"] - self.world.now
        shown = {name: batch[name] for name in ("id", "object", "created_at", "metadata")}
        shown["status"] = (
            ("expired" if batch["bad"] else "completed") if ended else FLOW[int(left) % 3]
        )
        shown["request_counts"] = batch["counts"]
        if ended:
            shown["output_file_id"] = f"{batch['id']}-out"
            shown["error_file_id"] = f"{batch['id']}-bad" if batch["bad"] else None
        else:
            shown["request_counts"] = batch["counts"] | {"completed": 0}
        return shown


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": code, "type": code}}


class _Transport(httpx2.BaseTransport):
    def __init__(self, server: Server) -> None:
        self._server = server

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        return self._server.answer(request)


@contextmanager
def simulated_provider(server: Server) -> Iterator[None]:
    """Have the clients of the block reach this server alone."""
    real = client.client_settings

    def settings(*arguments: Any) -> dict[str, Any]:
        http = httpx2.Client(transport=_Transport(server), trust_env=False)
        return real(*arguments) | {"http_client": http}

    with patch.object(client, "client_settings", settings):
        yield
