"""What must hold after every event of a history, each with the promise that it belongs to.

They read the database by plain SQL over a connection of their own, the provider's bill, and the
files; they use no code that they judge, but for the doctor at the end.
"""

import hashlib
import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from helpers.fakes.state import label_of

from atgen_ray.config import RunConfig
from atgen_ray.config.prices import find_price
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.money import NANO
from atgen_ray.training import TrainingExample

from .people import Person
from .provider import Server
from .scenarios import RUN, Scenario
from .steps import ADAPTER, speak, weigh
from .world import Process

# Name of each invariant, and the promise of docs/promises.md that it belongs to.
INVARIANTS = {
    "paid-once": "no paid annotation is lost, none is paid twice",
    "bill-in-ledger": "no paid annotation is lost, none is paid twice",
    "budget": "the budget is never exceeded",
    "released": "the budget is never exceeded",
    "labels-kept": "no paid annotation is lost, none is paid twice",
    "right-label": "an example is labelled at most once by an annotator",
    "one-label": "an example is labelled at most once by an annotator",
    "events-append": "a run resumed after any death ends as an undisturbed one",
    "lease": "a controller that lost its lease changes nothing, in journal or storage",
    "journalled": "a controller that lost its lease changes nothing, in journal or storage",
    "named": "a controller that lost its lease changes nothing, in journal or storage",
    "fenced": "a controller that lost its lease changes nothing, in journal or storage",
    "one-line": "full, read-only, locked, failing or absent disks, stores and databases end a run "
    "with one line, and the same command resumes it",
    "ends": "a run resumed after any death ends as an undisturbed one",
    "same-result": "a run resumed after any death ends as an undisturbed one",
    "scored": "the model that is scored is the adapter that is taken away",
    "answers-kept": "no paid annotation is lost, none is paid twice",
    "doctor": "what disagrees between journal, storage and ledger is named",
}
VIEWS = {
    "audit/models.json",
    "labeled.jsonl",
    "metrics.json",
    "rivals.json",
    "config.yaml",
    "versions.json",
    "provider.json",
    "report.html",
    "learning_curve.png",
}
# What may have a name without an event: rows that are only added, and unfinished work.
ADDED = re.compile(r"embeddings/|rounds/\d+/\w+\.parts/|rounds/\d+/training-[0-9a-f-]+(/|$)")


class BrokenError(Exception):
    """An invariant does not hold."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(f"{name}: {found}")
        self.name = name


def require(name: str, holds: bool, found: str) -> None:
    """Raise BrokenError unless the invariant `name` holds."""
    assert name in INVARIANTS, name
    if not holds:
        raise BrokenError(name, found)


class Invariants:
    """The promises of one history, held against everything that is seen of it.

    `names_come_first` is for an old bug: files had their names before their event.
    """

    names_come_first = False

    def __init__(
        self, scenario: Scenario, config: RunConfig, database: str, server: Server, root: str
    ) -> None:
        self.scenario = scenario
        self.config = config
        self.root = root
        self.checks = Counter[str]()
        self.people: list[Person] = []
        self._server = server
        self._ask = sqlite3.connect(database, isolation_level=None)
        self._events: list[tuple[Any, ...]] = []
        self._labels: list[tuple[Any, ...]] = []
        self._named: dict[str, str] = {}  # digest of each file that the journal names
        self._fences: dict[str, int] = {}  # epoch of each owner that has shut out earlier ones
        self._texts: dict[str, str] = {}
        annotator = config.annotator
        self._price = find_price(annotator, "annotator") if annotator.type == "openai" else None
        dollars = config.stopping.dollars
        self._budget = None if dollars is None else int(dollars * NANO)

    def close(self) -> None:
        self._ask.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what plain SQL finds."""
        return self._ask.execute(query).fetchall()

    def after_commit(self, process: Process | None) -> None:
        """Check what a transaction has changed."""
        self._check_lease(process)
        self._check_events()
        self._check_labels()
        self.check_money()

    def _check_lease(self, process: Process | None) -> None:
        self.checks["lease"] += 1
        if process is None or not process.owner:
            return
        for (owner,) in self.rows("SELECT owner FROM controllers"):
            require(
                "lease",
                owner in (process.owner, None),
                f"{process} has written, but {owner} has the lease",
            )

    def _check_events(self) -> None:
        self.checks["events-append"] += 1
        columns = "sequence, kind, round, step, payload, seconds, time"
        found = self.rows(f"SELECT {columns} FROM events WHERE run = '{RUN}' ORDER BY sequence")
        known = len(self._events)
        require("events-append", found[:known] == self._events, "an event has changed")
        for place, row in enumerate(found[known:], known + 1):
            require("events-append", row[0] == place, f"event {row[0]} stands at place {place}")
            if row[1] == "step":
                self._name(json.loads(row[4]))
        self._events = found

    def _name(self, payload: dict[str, Any]) -> None:
        """Check that what the journal names from now on exists."""
        for rel, file in payload.get("files", {}).items():
            if file["digest"] is None:
                continue
            self.checks["journalled"] += 1
            self._named[rel] = file["digest"]
            places = (f"{self.root}/.steps/{payload.get('place')}/{rel}", f"{self.root}/{rel}")
            found = [digest_of(Path(path)) for path in places]
            require("journalled", file["digest"] in found, f"{rel} is not as the journal says")

    def _check_labels(self) -> None:
        self.checks["labels-kept"] += 1
        columns = "id, round, example_id, annotator, text, dollars"
        found = [
            (*row[:4], json.loads(row[4]), *row[5:])
            for row in self.rows(f"SELECT {columns} FROM annotations ORDER BY id")
        ]
        known = len(self._labels)
        require("labels-kept", found[:known] == self._labels, "a label is gone or has changed")
        if len(found) > known:
            examples = [row[2] for row in found]
            require("one-label", len(set(examples)) == len(examples), f"{examples}")
            for row in found[known:]:
                text = self._text(row[2])
                require("right-label", row[4] == label_of(text), f"{row[2]} has {row[4]!r}")
        self._labels = found

    def _text(self, id_: str) -> str:
        if id_ not in self._texts:
            import pyarrow.parquet as pq

            for name in ("pool", "test"):
                table = pq.read_table(f"{self.root}/{name}.parquet", columns=["id", "text"])
                self._texts |= dict(zip(*table.to_pydict().values(), strict=True))
        return self._texts[id_]

    def check_money(self) -> None:
        """Hold the bill against the ledger, and both against the budget."""
        self.checks["bill-in-ledger"] += 1
        ledger = {
            key: held if paid is None else paid
            for key, held, paid in self.rows("SELECT key, held, paid FROM ledger")
        }
        used = sum(ledger.values())
        if self._budget is not None:
            require("budget", used <= self._budget, f"{used} of {self._budget} is spent or held")
        ((total,),) = self.rows("SELECT coalesce(sum(paid + held), 0) FROM totals")
        require("budget", used == total, f"the ledger has {used}, its totals {total}")
        if self._price is None:
            return
        billed: Counter[str] = Counter()
        for each in self._server.bills:
            billed[each.custom_id] += self._price.nano(each.prompt, each.output)
        require("bill-in-ledger", sum(billed.values()) <= used, f"{billed} but the ledger {used}")
        if not self.scenario.once:
            return
        for custom_id, nano in billed.items():
            if not custom_id.startswith("answer-"):
                there = ledger.get(custom_id, -1)
                require(
                    "bill-in-ledger", nano <= there, f"{custom_id}: {nano} billed, {there} held"
                )
        self._check_once()

    def _check_once(self) -> None:
        self.checks["paid-once"] += 1
        cut = "state = 'unanswered' AND output_tokens IS NOT NULL"  # billed, and to be asked again
        questions = {
            custom_id: question
            for custom_id, *question in self.rows(
                f"SELECT custom_id, example_id, vote, repair FROM requests WHERE NOT ({cut})"
            )
        }
        times = Counter(
            tuple(questions.get(each.custom_id, [each.custom_id])) for each in self._server.bills
        )
        twice = {question: count for question, count in times.items() if count > 1}
        require("paid-once", not twice, f"billed more than once: {twice}")

    def after_fence(self, process: Process, epoch: int) -> None:
        """Note that a controller has shut out those before it."""
        self._fences[process.owner] = epoch

    def after_rename(self, process: Process | None, target: str) -> None:
        """Check a name that a file or folder has got."""
        rel = target.removeprefix(f"{self.root}/")
        if rel == target or rel.startswith((".staging/", ".steps/")):
            return
        if rel in VIEWS:
            self.checks["fenced"] += 1
            own = self._fences.get(process.owner) if process else None
            late = own is not None and own < max(self._fences.values())
            require("fenced", not late, f"{process} has written {rel}: {self._fences}")
            return
        if ADDED.match(rel):
            return
        self.checks["named"] += 1
        paths = [Path(target)] if Path(target).is_file() else sorted(Path(target).rglob("*"))
        for path in paths:
            if path.is_file():
                below = str(path).removeprefix(f"{self.root}/")
                if self.names_come_first and below not in self._named:
                    continue
                require("named", below in self._named, f"{below} has a name, but no event names it")
                same = digest_of(path) == self._named[below]
                require("named", same, f"{below} has a name, but not the content of its event")

    def at_end(self) -> None:
        """Check what must hold of a run that has ended."""
        open_ = self.rows("SELECT key, held FROM ledger WHERE paid IS NULL")
        require("released", not open_, f"money is still held: {open_}")
        if self._price is not None and self.scenario.same:
            billed = sum(self._price.nano(each.prompt, each.output) for each in self._server.bills)
            ((paid,),) = self.rows("SELECT sum(paid) FROM ledger")
            late = sum(self._price.nano(each.prompt, each.output) for each in self._server.late)
            fits = billed <= paid <= billed + late
            require("bill-in-ledger", fits, f"{billed} billed, {paid} in the ledger, {late} late")
        self._check_people()
        self._check_models()
        for rel, expected in self._named.items():
            found = digest_of(Path(self.root, rel))
            require("named", found == expected, f"{rel} is not as the journal says, at the end")

    def _check_people(self) -> None:
        for person in self.people:
            query = f"SELECT example_id, text FROM assignments WHERE annotator = '{person.name}'"
            kept = {id_: json.loads(text) for id_, text in self.rows(query) if text is not None}
            for id_, text in person.accepted.items():
                require("answers-kept", kept.get(id_) == text, f"{person.name}'s answer to {id_}")

    def _check_models(self) -> None:
        """Check that each adapter has learnt all labels so far, and that it is what is scored."""
        for round in sorted({row[1] for row in self._labels}):
            folder = Path(self.root, f"rounds/{round:03d}")
            if not (folder / "adapter").exists():
                continue
            examples = [
                TrainingExample(row[2], self._text(row[2]), row[4])
                for row in self._labels
                if 0 < row[1] <= round  # labels of round 0 are the audit's, from which none learns
            ]
            weights = (folder / "adapter" / ADAPTER).read_text()
            expected = weigh(examples, mix_seed(self.config.seed, "training", round))
            require("scored", weights == expected, f"the adapter of round {round}")
            for line in (folder / "predictions.jsonl").read_text().splitlines():
                row = json.loads(line)
                right = speak(weights, self._text(row["id"])) in row.values()
                require("scored", right, f"{row} of round {round}")

    def result(self) -> dict[str, Any]:
        """Return picks, labels and models, to be compared with those of another history."""
        import pyarrow.parquet as pq

        picks = {
            path.parent.name: pq.read_table(path, columns=["id"])["id"].to_pylist()
            for path in sorted(Path(self.root, "rounds").glob("*/selection.parquet"))
        }
        labels = sorted((row[1], row[2], row[4]) for row in self._labels)
        adapters = [
            path.read_text()
            for path in sorted(Path(self.root, "rounds").glob(f"*/adapter/{ADAPTER}"))
        ]
        steps = [(row[2], row[3]) for row in self._events if row[1] == "step"]
        return {"picks": picks, "labels": labels, "adapters": adapters, "steps": steps}


def digest_of(path: Path) -> str | None:
    """Return the SHA-256 of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
