"""The stand-in for OpenAI and Anthropic, started as a process of its own and driven from a test."""

import json
import sqlite3
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bill:
    """One answer that the provider charges for."""

    custom_id: str
    example: str
    prompt: int
    output: int


@dataclass(frozen=True)
class FakeProvider:
    """A running stand-in. `url` serves both wires."""

    url: str
    folder: Path

    @property
    def openai(self) -> str:
        return f"{self.url}/v1"

    def fail(self, on: str, times: int = 1, skip: int = 0, **fault: Any) -> None:
        """Makes the next `times` calls of a route fail, after `skip` good ones.

        `on` is a route as "POST /v1/batches" or "*"; `fault` one of status (with code, message,
        retry_after), body (a text with status 200), drop or kill (`before` or `after` its effect; kill ends the client), malformed
        (a text), cut (a share), delay.
        """
        self._post("rules", [{"on": on, "times": times, "skip": skip} | fault])

    def set(self, **settings: Any) -> None:
        """Changes settings: see SETTINGS in state.py."""
        self._post("settings", settings)

    def watch(self, pid: int) -> None:
        """The process that `kill` ends."""
        self._post("client", pid)

    def recover(self) -> None:
        """Takes all faults away; what was billed and made stays."""
        self._post("recover", None)

    def reset(self) -> None:
        self._post("reset", None)

    def calls(self) -> Counter[str]:
        """How often each path was called."""
        return Counter(self._post("log", None)["log"])

    def bills(self) -> list[Bill]:
        with sqlite3.connect(self.folder / "fake.db") as db:
            return [
                Bill(*row)
                for row in db.execute("SELECT custom_id, example, prompt, output FROM billed")
            ]

    def _post(self, what: str, value: Any) -> Any:
        request = urllib.request.Request(f"{self.url}/_fake/{what}", json.dumps(value).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def run_provider(folder: Path) -> Iterator[FakeProvider]:
    """A stand-in with its state in `folder`, for as long as the block lasts."""
    command = [sys.executable, str(Path(__file__).with_name("server.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield FakeProvider(f"http://127.0.0.1:{port}", folder)
        finally:
            process.kill()
