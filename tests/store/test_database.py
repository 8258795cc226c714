"""The database behind the journal: URLs, secrets, versions, and trouble with the server."""

import logging
import sqlite3
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from atgen_ray.core.errors import LeaseLostError, UserError
from atgen_ray.store import database
from atgen_ray.store.database import Database, parse_url
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity

SECRET = "s3cr3t-canary"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "cannot be read, expected sqlite:///FILE or postgresql://"),
        (f"postgresql://me:{SECRET}/x@host:{SECRET}/db", "cannot be read"),
        (f"postgresql://me:start@{SECRET}@host/db", "more than one @"),
        (f"mysql://me:{SECRET}@host/db", "starts with 'mysql'"),
        (f"postgresql+asyncpg://me:{SECRET}@host/db", r"starts with 'postgresql\+asyncpg'"),
        (
            f"postgresql://me:{SECRET}@127.0.0.1:9/db",
            r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:9/db cannot be used",
        ),
        (f"postgresql://127.0.0.1:9/db?user=me&password={SECRET}", "127.0.0.1:9/db cannot be used"),
        ("sqlite://", "SQLite in memory"),
        ("sqlite:///:memory:", "SQLite in memory"),
        ("sqlite:////proc/nowhere/atgen.db", "cannot be opened"),
        ("sqlite:////dev/null/atgen.db", "cannot be opened"),
    ],
)
def test_a_bad_url_is_one_line_without_its_password(
    url: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(UserError, match=reason) as caught:
        Journal(url)
    assert "\n" not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_wrong_password_is_not_shown(postgres_url: str) -> None:
    url = sa.make_url(postgres_url).set(password=SECRET)
    with pytest.raises(UserError, match="password authentication failed") as caught:
        Database(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_right_password_is_not_shown_either(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        journal = Journal(postgres_url)
        journal.create_run("secretive", {}, "")
        lease = journal.acquire("secretive", ProcessIdentity("a"), 60)
        shown = f"{journal!r} {journal.database!r} {lease!r} {lease}"
    assert "pg-canary" not in shown + caplog.text
    assert "atgen:***@" in shown


def test_plain_postgresql_means_psycopg() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        assert parse_url(f"{scheme}://me:x@host/db").drivername == "postgresql+psycopg"


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r'pip install "atgen-ray\[postgres\]"') as caught:
        Database(f"postgresql://me:{SECRET}@127.0.0.1/db")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "atgen.db"
    file.write_text("some notes, longer than the header of a database, " * 10)
    with pytest.raises(UserError, match="file is not a database"):
        Database(f"sqlite:///{file}")
    assert file.read_text().startswith("some notes")


def test_tables_of_another_program_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE runs (kilometres REAL)")
    other.commit()
    with pytest.raises(UserError, match="holds a table 'runs' of something else"):
        Database(f"sqlite:///{file}")
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("runs",)]


def test_sqlite_keeps_what_it_said_it_kept(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path / 'new' / 'folder' / 'atgen.db'}").writing() as connection:
        settings = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 60_000,
    }


def test_connections_that_the_server_cut_are_replaced(postgres_url: str) -> None:
    journal, other = Journal(postgres_url), Database(postgres_url)
    journal.create_run("cut", {}, "")
    lease = journal.acquire("cut", ProcessIdentity("a"), 60)
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'atgen' AND "
        "pid <> pg_backend_pid()"
    )
    with other.reading() as connection:
        assert connection.exec_driver_sql(cut).all()
    assert journal.append(lease, "note").sequence == 1


def test_a_machine_that_vanishes_in_a_transaction_does_not_block_the_run(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_SECONDS", 1)
    journal, second = Journal(postgres_url), Journal(postgres_url)
    journal.create_run("vanished", {}, "")
    lease = journal.acquire("vanished", ProcessIdentity("a"), 60)
    inside, over = threading.Event(), threading.Event()

    def vanish() -> None:
        with journal.leased_transaction(lease) as connection:
            inside.set()
            over.wait(30)
            connection.exec_driver_sql("SELECT 1")

    with ThreadPoolExecutor(1) as pool:
        vanished = pool.submit(vanish)
        assert inside.wait(30)
        begun = time.monotonic()
        taken = second.acquire("vanished", ProcessIdentity("b"), 60, takeover=True)
        assert time.monotonic() - begun < 20
        over.set()
        with pytest.raises(UserError, match="idle-in-transaction"):
            vanished.result(30)
    with pytest.raises(LeaseLostError):
        journal.append(lease, "note")
    assert second.append(taken, "note").sequence == 1
