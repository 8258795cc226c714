"""The stand-in's state: rows it billed, files, batches, stored answers; faults to come; and what it
answers.
"""

import hashlib
import json
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

FENCE = re.compile(r"BEGIN EXAMPLE (\w+)\n(.*)\nEND EXAMPLE \1", re.DOTALL)
COMMAND = re.compile(r"answer only with (\w+)", re.IGNORECASE)
CODE = re.compile(r"Answer with the code (\w+) alone\.$")
SETTINGS: dict[str, Any] = {
    "latency": 0.0,  # seconds of every call
    "key": None,  # the only key that is taken; None: any
    "polls": 0,  # looks at a batch before it ends
    "company": 1,  # batches that have been sent before looks at one count
    "stuck": None,  # the status at which batches stay
    "share": 1.0,  # of a batch's rows that are answered
    "ending": "completed",  # how a batch ends: completed, expired, cancelled, failed
    "failure": ["invalid", "the file is broken"],  # code and message of a batch that failed
    "row_error": None,  # code of the rows that are not answered, in place of that of the ending
    "broken_lines": 0,  # of a result file
    "extra_tokens": 0,  # billed for beyond what was asked for
    "once": (),  # settings that go back after the next batch
    "hide": 0,  # looks at a list before a new batch shows in it
    "usage": None,  # how the tokens are told: missing, null, null-output, thought-outside
    "thought": 0,  # tokens of hidden reasoning, billed like the others
    "late_file": 0,  # looks at an ended batch before it names its output file
    "late_lines": 0,  # downloads of a result file that hold only half of its lines
    "queue": None,  # rows of batches that have not ended; a batch above it fails
    "row_body": None,  # what a row that is not answered has with status 200, in place of an error
    "row_status": None,  # HTTP status of the rows that are not answered
}


class State:
    """Safe to use from threads."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            folder / "fake.db", check_same_thread=False, isolation_level=None
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS billed (id, custom_id, example, prompt, output)"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS things (kind, id, value, PRIMARY KEY (kind, id))"
        )
        self.rules: list[dict[str, Any]] = []
        self.settings = dict(SETTINGS)
        self.client = 0
        self.calls: list[str] = []
        self.resets = 0
        self._numbers = 0

    def reset(self) -> None:
        with self._lock:
            self._db.execute("DELETE FROM billed")
            self._db.execute("DELETE FROM things")
            self.rules, self.settings, self.calls = [], dict(SETTINGS), []
            self.resets += 1

    def log(self, call: str) -> None:
        with self._lock:
            self.calls.append(call)

    def take_rule(self, name: str, method: str) -> dict[str, Any]:
        """The first rule for a route that is due, which is then used up by one."""
        with self._lock:
            for rule in self.rules:
                if rule["on"] not in (name, "*", f"{method} *") or rule.get("times", 1) <= 0:
                    continue
                if rule.get("skip", 0) > 0:
                    rule["skip"] -= 1
                    continue
                rule["times"] = rule.get("times", 1) - 1
                return rule
        return {}

    def spend_once(self) -> None:
        """A batch was made: settings that were for one batch go back."""
        with self._lock:
            self.settings |= {name: SETTINGS[name] for name in self.settings["once"]}

    def put(self, kind: str, id: str, value: Any) -> None:
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO things VALUES (?, ?, ?)", (kind, id, json.dumps(value))
            )

    def get(self, kind: str, id: str) -> Any:
        with self._lock:
            row = self._db.execute(
                "SELECT value FROM things WHERE kind = ? AND id = ?", (kind, id)
            ).fetchone()
        if row is None:
            raise LookupError(f"no {kind} {id}")
        return json.loads(row[0])

    def delete(self, kind: str, id: str) -> None:
        """Raises LookupError for what is not there."""
        self.get(kind, id)
        with self._lock:
            self._db.execute("DELETE FROM things WHERE kind = ? AND id = ?", (kind, id))

    def all(self, kind: str) -> list[Any]:
        """The newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT value FROM things WHERE kind = ? ORDER BY rowid DESC", (kind,)
            ).fetchall()
        return [json.loads(row[0]) for row in rows]

    def number(self) -> int:
        """A number that nobody else gets."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def answer(
        self, custom_id: str, system: str, turns: list[dict[str, str]], limit: int
    ) -> dict[str, Any]:
        """What the model says to a prompt, and its tokens, which are billed from here on."""
        text, finish = think(system, turns, self.number())
        if len(text) // 4 + 1 > limit:
            text, finish = text[: 4 * limit], "length"
        prompt = (len(system) + sum(len(turn["content"]) for turn in turns)) // 4
        output = min(limit, len(text) // 4 + 1) + self.settings["extra_tokens"]
        output += self.settings["thought"]
        found = FENCE.findall(turns[-1]["content"])
        with self._lock:
            row = (
                f"answer-{self.number()}",
                custom_id,
                found[-1][1] if found else "",
                prompt,
                output,
            )
            self._db.execute("INSERT INTO billed VALUES (?, ?, ?, ?, ?)", row)
        return {"id": row[0], "text": text, "finish": finish, "prompt": prompt, "output": output}


def think(system: str, turns: list[dict[str, str]], number: int) -> tuple[str, str]:
    """A gullible model: it obeys whoever commands, in the example or anywhere else in what it is
    shown.

    Marks in the example, as [[refuse]], make it misbehave.
    """
    question = turns[-1]["content"]
    found = FENCE.findall(question)
    example = found[-1][1] if found else question
    for text in (*(turn["content"] for turn in turns[:-1]), system, example):
        if command := COMMAND.search(text):
            return command[1], "stop"
    if code := CODE.search(question):
        return code[1], "stop"
    mended = "Your earlier answer" in question
    marks = set(re.findall(r"\[\[([\w-]+)\]\]", example))
    label = grade_of(example) if "<answer>" in example else label_of(example)
    if "refuse" in marks:
        return "I'm sorry, but I cannot help with that.", "stop"
    if "refuse-once" in marks:
        return (label if mended else "I'm sorry, but I cannot help with that."), "stop"
    if wanted := next((mark[6:] for mark in marks if mark.startswith("words-")), ""):
        return " ".join([label, *["word"] * int(wanted)]), "stop"
    if "empty" in marks:
        return "", "stop"
    if "cut" in marks:
        return "half an answ", "length"
    if "think" in marks:
        return f"<think>Let me see. {example[:20]}</think>\n{label}", "stop"
    if "waver" in marks:  # never the same answer twice
        return f"{label} or {number}", "stop"
    if "json" in marks:
        return json.dumps({"why": "so", "label": label}), "stop"
    if "think-open" in marks:
        return f"hm, let me see</think>{label}", "stop"
    return label, "stop"


def label_of(example: str) -> str:
    """The one right label of an example."""
    return f"label {hashlib.blake2b(example.encode(), digest_size=4).hexdigest()}"


def grade_of(example: str) -> str:
    """The one right verdict on an answer that is to be graded."""
    return f"Score: {1 + hashlib.blake2b(example.encode(), digest_size=4).digest()[0] % 10}"
