"""The audit log: its chain under many writers, and what a reader notices of those who change it."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from helpers.command_line import call

from atgen_ray.core.errors import UserError
from atgen_ray.store.audit import AuditLog, Chain, Entry, Filter, Head, Who, parse_head
from atgen_ray.store.changes import audited
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import audit

# A process of its own; one that is forked from the tests' server would import much more.
WRITER = """
import sys
from atgen_ray.store.audit import AuditLog, Entry, Who
from atgen_ray.store.database import Database
log = AuditLog(Database(sys.argv[1]))
for number in range(int(sys.argv[3])):
    log.append([Entry("api", sys.argv[2], Who(person=sys.argv[2]), target=str(number))])
"""


def test_the_chain_does_not_fork_under_threads_and_processes(
    journal: Journal, journal_url: str
) -> None:
    mark = uuid4().hex
    before = AuditLog(journal.database).verify().entries
    command = [sys.executable, "-c", WRITER, journal_url, mark, "15"]
    other = subprocess.Popen(command)
    log = AuditLog(journal.database)
    entry = Entry("api", mark, Who(person=mark))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: log.append([entry, entry]), range(20)))
    assert other.wait(120) == 0
    found = log.verify()
    assert found.faults == ()
    assert found.entries == before + 15 + 40 == found.head.sequence
    assert len(list(log.read(Filter(who=mark)))) == 55


def test_entries_are_found_by_who_what_run_and_time(journal: Journal) -> None:
    log = AuditLog(journal.database)
    ann, run = f"ann-{uuid4().hex}", f"run-{uuid4().hex}"
    log.append(
        [
            Entry("http", "POST /stop", Who("t1", ann, "10.0.0.1"), "202", run),
            Entry("cli", "create token", Who(person=ann), target="t2", detail={"role": "admin"}),
        ]
    )
    first, second = log.read(Filter(who=ann))
    assert (first["token"], first["address"], first["of_run"]) == ("t1", "10.0.0.1", run)
    assert second["detail"] == {"role": "admin"}
    assert [row["sequence"] for row in log.read(Filter(run=run))] == [first["sequence"]]
    assert [row["target"] for row in log.read(Filter(who=ann, what="token"))] == ["t2"]
    assert list(log.read(Filter(who=ann, until=first["time"] - 1))) == []
    assert log.latest(Filter(who=ann), 1)[0]["sequence"] == second["sequence"]


def test_entries_cannot_be_changed_or_removed_by_accident(journal: Journal) -> None:
    log = AuditLog(journal.database)
    last = log.append([Entry("api", "x", Who(person="eve"))]).sequence
    mine = audit.c.sequence == last
    for change in (
        sa.delete(audit).where(mine),
        sa.update(audit).where(mine).values(result="other"),
        sa.update(audit).where(mine).values(who={"person": "mallory"}),
        sa.update(audit).where(mine).values(detail={"x": 1}),
    ):
        with (
            pytest.raises(Exception, match="only appended"),
            journal.database.writing() as connection,
        ):
            connection.execute(change)


def test_a_person_can_be_removed_and_the_chain_holds(journal: Journal) -> None:
    log = AuditLog(journal.database)
    name = f"ann-{uuid4().hex}"
    log.append([Entry("http", "x", Who("t", name, "10.1.1.1")), Entry("http", "y", Who("t2"))])
    assert (log.redact(name), log.redact(name)) == (1, 0)
    assert list(log.read(Filter(who=name))) == []
    found = log.verify()
    assert found.faults == ()
    assert found.redacted >= 1


def write_log(file: Path, count: int = 6) -> AuditLog:
    log = AuditLog(Journal(f"sqlite:///{file}").database)
    for number in range(count):
        log.append([Entry("http", f"act {number}", Who("t", "ann"), target=str(number))])
    return log


def open_up(file: Path, sql: str) -> None:
    """What somebody does who may write the database, past the triggers."""
    with sqlite3.connect(file) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='trigger'"):
            connection.execute(f"DROP TRIGGER {name}")
        connection.executescript(sql)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DELETE FROM audit WHERE sequence = 3", "entries 3 to 3 are missing"),
        ("UPDATE audit SET result = 'no' WHERE sequence = 3", "entry 3 was changed"),
        ("UPDATE audit SET time = time - 60 WHERE sequence = 3", "entry 3 was changed"),
        ('UPDATE audit SET who = \'{"person": "eve"}\' WHERE sequence = 3', "names somebody"),
        ("DELETE FROM audit WHERE sequence > 4", "ends with entry 4, but the head is 6"),
        ("DELETE FROM audit WHERE sequence < 3", "entries 1 to 2 are missing"),
        ("UPDATE audit_head SET digest = 'x'", "but the head is 6:x"),
        ("UPDATE audit SET sequence = 9 WHERE sequence = 6", "entries 6 to 8 are missing"),
    ],
)
def test_what_is_tampered_with_shows(tmp_path: Path, sql: str, told: str) -> None:
    log = write_log(tmp_path / "a.db")
    assert log.verify().faults == ()
    open_up(tmp_path / "a.db", sql)
    assert any(told in fault for fault in log.verify().faults), log.verify().faults


def rewrite(log: AuditLog, file: Path, change: Callable[[dict[str, object]], None]) -> None:
    """A whole new chain, as an attacker who knows this code computes it, with its head."""
    rows = list(log.read())
    entries = []
    for row in rows:
        change(row)
        who = Who(row["token"], row["person"], row["address"])
        entries.append(
            Entry(row["channel"], row["action"], who, row["result"], row["of_run"], row["target"])
        )
    open_up(file, "DELETE FROM audit; UPDATE audit_head SET sequence = 0, digest = ''; ")
    log.append(entries)


def test_only_a_head_kept_elsewhere_shows_a_log_that_was_written_anew(tmp_path: Path) -> None:
    """This is what a chain in one database can prove, and what it cannot."""
    file = tmp_path / "a.db"
    log = write_log(file)
    kept = log.head()
    rewrite(log, file, lambda row: row.update(person="mallory"))
    assert log.verify().faults == ()
    assert any("another than" in fault for fault in log.verify(kept).faults)
    removed = Head(kept.sequence + 5, kept.digest)
    assert any("were removed" in fault for fault in log.verify(removed).faults)


def test_an_export_can_be_checked_without_the_database(tmp_path: Path) -> None:
    write_log(tmp_path / "atgen.db")
    file = tmp_path / "audit.jsonl"
    at = ("--storage", str(tmp_path))
    done = call("audit", "--format", "jsonl", "--output", str(file), *at)
    assert done.status == 0
    chain = Chain()
    for line in file.read_text().splitlines():
        chain.add(json.loads(line))
    assert (chain.faults, chain.entries) == ([], 6)
    assert f"head: {chain.head}" in done.err


def test_the_command_shows_exports_and_verifies(tmp_path: Path) -> None:
    log = write_log(tmp_path / "atgen.db")
    at = ("--storage", str(tmp_path))
    shown = call("audit", "--what", "act 3", *at)
    assert shown.out.count("\n") == 1
    assert "ann (t)" in shown.out
    table = call("audit", "--format", "csv", "--who", "ann", *at)
    assert table.out.splitlines()[0].startswith("sequence,time,channel,token,person")
    assert len(table.out.splitlines()) == 7
    kept = str(log.head())
    good = call("audit", "--verify", "--head", kept, *at)
    assert (good.status, good.out) == (0, f"6 entries: whole\nhead: {kept}\n")
    open_up(tmp_path / "atgen.db", "DELETE FROM audit WHERE sequence > 4")
    broken = call("audit", "--verify", *at)
    assert broken.status == 1
    assert "broken: the chain ends with entry 4" in broken.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--since", "yesterday"], "--since is 'yesterday', expected a time"),
        (["--format", "jsonk"], "--format is 'jsonk', expected text, jsonl or csv"),
        (["--head", "3:x"], "--head is '3:x', which is compared by --verify"),
        (["--verify", "--head", "3:xyz"], "--head is '3:xyz', expected NUMBER:DIGEST"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, arguments: list[str], told: str) -> None:
    refused = call("audit", *arguments, "--storage", str(tmp_path))
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert told in refused.err


def test_a_head_is_read_as_it_is_printed() -> None:
    for head in (Head(0, ""), Head(7, "ab" * 32)):
        assert parse_head(str(head)) == head


def test_what_others_wrote_is_bounded_and_printable(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.db", 0)
    evil = "a\0\x1b[2J\ud800" + "x" * 10_000
    log.append([Entry("http", evil, Who(evil, evil, evil), evil, evil, evil, {evil: [evil]})])
    (row,) = log.read()
    assert len(json.dumps(row)) < 4000
    assert row["action"].isprintable()
    assert log.verify().faults == ()


def test_a_change_that_fails_says_so(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.db", 0)
    database = log._database
    with audited(database, "do it", run="r", target="x") as said:
        said["rows"] = 3
    with pytest.raises(UserError), audited(database, "do it"):
        raise UserError("no")
    results = [(row["result"], row["detail"]) for row in log.read()]
    assert results == [
        ("begun", {}),
        ("ok", {"of": 1, "rows": 3}),
        ("begun", {}),
        ("failed: UserError", {"of": 3}),
    ]
    assert all(row["person"] and row["address"] for row in log.read())
