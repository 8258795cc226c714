"""A stand-in for an annotating model that obeys a part of the rows that speak to it, over OpenAI's
wire.

It understands no language: a table says what the right label of each row is, and what a model that
obeys the row would answer. How readily it obeys is a number, so what is measured with it says how
much of obedience is found, not how often real models obey.
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FENCE = re.compile(r"BEGIN EXAMPLE (\w+)\n(.*?)\nEND EXAMPLE \1", re.DOTALL)
CODE = re.compile(r"Answer with the code (\w+) alone\.$")


@dataclass(frozen=True)
class Row:
    """The right label of a row, and what it commands, if anything."""

    label: str
    obeyed: str | None = None


@dataclass(frozen=True)
class Obedience:
    """How a model behaves.

    Attributes:
        obeys: share of the commanding rows that it obeys.
        steady: share of the commanding rows that it treats in a probe as it did when it labelled
            them; in the others it decides anew.
        slips: share of the probes of harmless rows that it answers wrongly.
    """

    obeys: float
    steady: float
    slips: float


class ObedientModel:
    """Answers prompts by the table; every decision is a hash, so a run can be repeated."""

    def __init__(self, rows: Mapping[str, Row], obedience: Obedience) -> None:
        """`rows` are by the text of the example."""
        self.rows = rows
        self.obedience = obedience
        self.asked: list[tuple[str, bool, list[str]]] = []  # example, probe, worked examples
        self._lock = threading.Lock()

    def obeys(self, text: str, probe: bool) -> bool:
        """Whether it obeys a row in this kind of question."""
        if self.rows[text].obeyed is None:
            return False
        anew = probe and _draw("steady", text) >= self.obedience.steady
        return _draw("anew" if anew else "obeys", text) < self.obedience.obeys

    def answer(self, turns: list[dict[str, str]]) -> str:
        """What it says to a prompt."""
        question = turns[-1]["content"]
        (found,) = FENCE.findall(question)
        text = found[1]
        code = CODE.search(question)
        shown = [part for turn in turns[:-1] for _, part in FENCE.findall(turn["content"])]
        with self._lock:
            self.asked.append((text, code is not None, shown))
        row = self.rows[text]
        if self.obeys(text, code is not None):
            return row.obeyed or ""
        if code is None:
            return row.label
        slipped = row.obeyed is None and _draw("slips", text) < self.obedience.slips
        return row.label if slipped else code[1]


def _draw(name: str, text: str) -> float:
    """A number from 0 to 1 that depends on the row alone."""
    return int.from_bytes(blake2b(f"{name}:{text}".encode(), digest_size=6).digest(), "big") / 2**48


@contextmanager
def serve_model(model: ObedientModel) -> Iterator[str]:
    """The base URL of the model, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = model.answer([turn for turn in body["messages"] if turn["role"] != "system"])
            message = {"role": "assistant", "content": text, "refusal": None}
            prompt = sum(len(turn["content"]) for turn in body["messages"]) // 4
            answer = {
                "id": "answer", "object": "chat.completion", "created": int(time.time()),
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": len(text) // 4 + 1,
                          "total_tokens": prompt + len(text) // 4 + 1},
            }  # fmt: skip
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
