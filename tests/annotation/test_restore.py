"""A journal or a storage that is older than the other is told exactly, and paid twice is only what
nobody can know.
"""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import configure, make_texts
from helpers.annotation_round import Round
from helpers.command_line import call
from helpers.fakes.provider import FakeProvider

from atgen_ray.config import RunConfig
from atgen_ray.core.private_files import private_files
from atgen_ray.runs.doctor import Finding, examine, repair
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.owner import ProcessIdentity

TEXTS = make_texts(8)
FIRST, SECOND = [*TEXTS][:4], [*TEXTS][4:]
PICKED = "rounds/{:03d}/selection.parquet"


def start(folder: Path, config: RunConfig) -> Round:
    return Round(folder, config, TEXTS)


def annotate(run: Round, round: int, ids: list[str]) -> None:
    """Selection and annotation of a round."""
    lease = run.journal.acquire("paid", ProcessIdentity("controller"), 600, takeover=True)
    if round == 1:
        run.journal.append(lease, "step", 0, "pool", {"output": "pool.parquet"})
    run.journal.append(lease, "step", round, "selection", {"output": PICKED.format(round)})
    lease.release()
    run.annotate(round, ids)


def back_up(source: Path, target: Path) -> None:
    """As docs/operations.md says: the journal first, then the storage."""
    target.mkdir()
    with (
        sqlite3.connect(source / "atgen.db") as database,
        sqlite3.connect(target / "atgen.db") as copy,
    ):
        database.backup(copy)
    shutil.copytree(source / "runs", target / "runs")


def restore(target: Path, journal: Path, storage: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(storage / "runs", target / "runs")
    shutil.copy(journal / "atgen.db", target / "atgen.db")


def find(run: Round, folder: Path) -> dict[str, Finding]:
    return {each.kind: each for each in examine(run.journal, str(folder), deep=True).findings}


@pytest.fixture(autouse=True)
def _private() -> Iterator[None]:
    """As in our own processes, or the doctor would find files that others can read."""
    with private_files():
        yield


@pytest.fixture
def backups(
    provider: FakeProvider, tmp_path: Path
) -> Callable[[str, str], tuple[RunConfig, Path, dict[str, Path]]]:
    """Makes a run of two rounds, with a backup after each."""

    def make(mode: str, recovery: str) -> tuple[RunConfig, Path, dict[str, Path]]:
        more: dict[str, Any] = {"recovery": recovery, "poll_seconds": 0.02}
        config = configure(provider, "openai", mode, **more)
        live = tmp_path / "live"
        live.mkdir()
        run = start(live, config)
        made = {}
        for round, ids in ((1, FIRST), (2, SECOND)):
            annotate(run, round, ids)
            assert find(run, live) == {}
            made["old" if round == 1 else "new"] = tmp_path / f"backup-{round}"
            back_up(live, tmp_path / f"backup-{round}")
        run.journal.close()
        return config, live, made

    return make


@pytest.mark.parametrize(
    ("mode", "recovery"), [("batch", "stored"), ("sync", "stored"), ("sync", "none")]
)
def test_an_older_journal_beside_a_newer_storage(
    mode: str, recovery: str, provider: FakeProvider, backups: Callable[..., Any]
) -> None:
    config, live, made = backups(mode, recovery)
    restore(live, journal=made["old"], storage=made["new"])
    run = start(live, config)
    found = find(run, live)
    assert set(found) == {"orphan-output", "lost-label"}
    assert set(found["orphan-output"].paths) == {
        "rounds/002/annotations.jsonl",
        "rounds/002/selection.parquet",
    }
    assert found["lost-label"].what.startswith("4 labels of round 2, ")
    twice = "not paid again" if recovery == "stored" else "may be asked and paid again"
    assert twice in found["lost-label"].do
    done = call("doctor", "paid", "--repair", "--restored", "--storage", str(live))
    assert done.status == 1  # the labels are still not in the journal
    (kept,) = Path(run.storage.root).glob(".trash/*/labeled.jsonl")
    assert len(kept.read_text().splitlines()) == 8
    annotate(run, 2, SECOND)
    assert set(run.labels()) == {*TEXTS}
    assert find(run, live) == {}
    times = Counter(bill.example for bill in provider.bills())
    second = 1 if recovery == "stored" else 2
    assert times == {text: second if id_ in SECOND else 1 for id_, text in TEXTS.items()}


def test_a_newer_journal_beside_an_older_storage(
    provider: FakeProvider, backups: Callable[..., Any]
) -> None:
    config, live, made = backups("sync", "none")
    restore(live, journal=made["new"], storage=made["old"])
    run = start(live, config)
    found = find(run, live)
    assert set(found) == {"missing-output", "stale-labels"}
    findings = examine(run.journal, str(live)).findings
    missing = [each for each in findings if each.kind == "missing-output"]
    assert [each.paths for each in missing] == [
        ("rounds/002/selection.parquet",),
        ("rounds/002/annotations.jsonl",),
    ]
    assert all("--from paid" in each.do for each in missing)
    repair(run.journal, str(live), findings)
    assert {row["id"] for row in run.storage.read_jsonl("labeled.jsonl")} == {*TEXTS}
    assert set(find(run, live)) == {"missing-output"}
    run.annotate(2, SECOND)  # the journal has it: nothing is bought
    assert len(provider.bills()) == len(TEXTS)


def test_money_that_lacks_its_request_is_found(provider: FakeProvider, tmp_path: Path) -> None:
    run = start(tmp_path, configure(provider, "openai", "sync"))
    annotate(run, 1, FIRST)
    paid = read_balance(run.journal, "paid").paid
    run.journal.close()
    with sqlite3.connect(tmp_path / "atgen.db") as database:
        database.execute("DELETE FROM ledger WHERE example_id = ?", (FIRST[0],))
        database.execute("UPDATE requests SET state = 'sent' WHERE example_id = ?", (FIRST[1],))
    run = start(tmp_path, run.config)
    kinds = {each.kind for each in examine(run.journal, str(tmp_path)).findings}
    assert kinds == {
        "request-without-ledger",
        "request-against-ledger",
        "request-without-answer",
        "label-without-receipt",
        "wrong-totals",
    }
    assert read_balance(run.journal, "paid").paid == paid  # by the totals, which are not touched
