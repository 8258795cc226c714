"""Journal and run folder on a full or read-only disk, in a failing store, under a lock, by a clock
that jumps.
"""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from helpers.object_store import ObjectStore, run_object_store
from helpers.small_disk import SmallDisk, mount_disk
from s3fs import S3FileSystem
from starlette.testclient import TestClient

from atgen_ray.config import LimitsConfig, ServiceConfig
from atgen_ray.core.errors import LeaseLostError, RunBusyError, StorageUnavailableError
from atgen_ray.core.records import Annotation
from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.middleware import AuthMiddleware
from atgen_ray.serving.routes.runs import run_routes
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.login import Sessions
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store import database
from atgen_ray.store.audit import AuditLog
from atgen_ray.store.database import Database
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mount_disk(tmp_path / "disk", "2m") as disk:
        yield disk


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ObjectStore]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with run_object_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # of a store that another test had
        yield store


def test_a_full_disk_keeps_what_was_there(disk: SmallDisk) -> None:
    folder = RunFolder(str(disk.folder), "demo")
    folder.write_text("metrics.json", "old")
    with folder.publish("adapter") as local:
        (local / "weights").write_text("old")
    disk.fill()
    with pytest.raises(
        StorageUnavailableError,
        match=r"^storage /.*/runs/demo cannot be used: No space left on device$",
    ):
        folder.write_text("metrics.json", "new" * 5000)
    with (
        pytest.raises(StorageUnavailableError, match="No space left"),
        folder.publish("adapter") as local,
    ):
        (local / "weights").write_text("new" * 5000)
    assert (folder.read_text("metrics.json"), folder.read_text("adapter/weights")) == ("old", "old")
    disk.free()
    folder.write_text("metrics.json", "new")
    assert folder.read_text("metrics.json") == "new"
    assert list((disk.folder / "runs/demo/.staging").iterdir()) == []


def test_a_full_disk_loses_no_committed_label(disk: SmallDisk) -> None:
    journal = Journal(f"sqlite:///{disk.folder / 'atgen.db'}")
    journal.create_run("demo", {}, "")
    lease = journal.acquire("demo", ProcessIdentity("a"), 600)
    written = 0
    with pytest.raises(StorageUnavailableError, match="database or disk is full"):  # noqa: PT012
        while True:
            journal.record_annotations(
                lease, 1, [Annotation(f"e{written}", "x" * 20_000, "ann", 0.5)]
            )
            written += 1
    assert written > 10
    assert [label.id for _, label in journal.annotations("demo")] == [
        f"e{at}" for at in range(written)
    ]
    journal.close()
    again = Journal(f"sqlite:///{disk.folder / 'atgen.db'}")
    assert again.dollars("demo") == 0.5 * written


def test_a_read_only_disk_is_said_in_one_line(disk: SmallDisk) -> None:
    folder = RunFolder(str(disk.folder), "demo")
    folder.write_text("metrics.json", "old")
    journal = Journal(f"sqlite:///{disk.folder / 'atgen.db'}")
    journal.create_run("demo", {}, "")
    lease = journal.acquire("demo", ProcessIdentity("a"), 600)
    journal.close()
    disk.protect("ro")
    with pytest.raises(StorageUnavailableError, match="cannot be used: Read-only file system"):
        folder.write_text("metrics.json", "new")
    with pytest.raises(
        StorageUnavailableError, match=r"cannot be used: .*(readonly|unable to open)"
    ):
        journal.append(lease, "note")
    assert folder.read_text("metrics.json") == "old"
    disk.protect("rw")
    assert journal.append(lease, "note").sequence == 1


def test_a_store_that_often_fails_loses_nothing(store: ObjectStore) -> None:
    folder = RunFolder(f"s3://{store.bucket}/prefix", "demo")
    store.failing = 0.1
    for at in range(6):
        folder.write_json(f"rounds/{at:03d}/metrics.json", {"at": at})
        with folder.publish(f"rounds/{at:03d}/adapter") as local:
            (local / "a").write_text(f"{at}")
            (local / "deep").mkdir()
            (local / "deep/b").write_text(f"{at}")
        assert folder.exists(f"rounds/{at:03d}/adapter")
        assert folder.read_json(f"rounds/{at:03d}/metrics.json") == {"at": at}
        copy = folder.local(f"rounds/{at:03d}/adapter")
        assert [(copy / file).read_text() for file in ("a", "deep/b")] == [f"{at}"] * 2
    folder.remove("rounds/003")
    folder.sweep()
    assert [rel for rel in folder.list("rounds") if folder.list(rel)] == [
        f"rounds/{at:03d}" for at in (0, 1, 2, 4, 5)
    ]
    assert sum(count for answer, count in store.answers.items() if answer != "well") > 10


def test_readers_of_a_slow_store_see_what_is_whole(store: ObjectStore) -> None:
    """While a file and a folder of several objects are replaced, in whatever order the objects
    arrive.
    """
    folder = RunFolder(f"s3://{store.bucket}/prefix", "demo")

    def write(at: int) -> None:
        folder.write_json("metrics.json", {"at": at, "padding": "x" * 100_000})
        with folder.publish("adapter") as local:
            for name in ("a", "b", "c"):
                (local / name).write_text(f"{at}")

    def read() -> tuple[int, set[str]]:
        found = folder.read_json("metrics.json")["at"]
        try:
            adapter = folder.local("adapter")
        except FileNotFoundError:
            return found, set()
        return found, {(adapter / name).read_text() for name in ("a", "b", "c")}

    write(1)
    store.delay = 0.1
    seen = []
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write, 2)
        while not writing.done():
            seen.append(read())
        writing.result()
    assert read() == (2, {"2"})
    assert seen
    assert all(found in (1, 2) and adapter in ({"1"}, set(), {"2"}) for found, adapter in seen), (
        seen
    )


def test_a_folder_replaced_while_it_is_read_is_not_there(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(f"s3://{store.bucket}/prefix", "demo")
    fetch = folder.fs.get

    def publish(text: str) -> None:
        with folder.publish("adapter") as local:
            (local / "a").write_text(text)

    def fetch_late(*arguments: object) -> None:
        publish("new")
        fetch(*arguments)

    publish("old")
    monkeypatch.setattr(folder.fs, "get", fetch_late)
    with pytest.raises(FileNotFoundError):
        folder.local("adapter")
    monkeypatch.undo()


def test_a_store_that_refuses_or_breaks_is_said_in_one_line(store: ObjectStore) -> None:
    folder = RunFolder(f"s3://{store.bucket}/prefix", "demo")
    folder.write_text("metrics.json", "old")
    with folder.publish("adapter") as local:
        (local / "weights").write_text("old")
    store.refusing = True
    for write in (
        lambda: folder.write_text("metrics.json", "new"),
        lambda: folder.remove("adapter"),
    ):
        with pytest.raises(
            StorageUnavailableError, match=r"^storage s3://\.\.\. cannot be used: "
        ) as caught:
            write()
        assert "canary" not in str(caught.value)
    assert (folder.read_text("metrics.json"), folder.exists("adapter")) == ("old", True)
    store.refusing, store.failing = False, 1.0
    with pytest.raises(StorageUnavailableError, match="cannot be used"):
        folder.read_text("metrics.json")
    store.failing = 0.0
    assert folder.read_text("metrics.json") == "old"
    store.stop()
    with pytest.raises(StorageUnavailableError, match="cannot be used: Could not connect"):
        folder.exists("metrics.json")


def test_a_locked_database_is_waited_for_and_then_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 1)
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    journal.create_run("demo", {}, "")
    lease = journal.acquire("demo", ProcessIdentity("a"), 600)
    other = sqlite3.connect(tmp_path / "atgen.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailableError, match="database is locked"):
        journal.append(lease, "note")
    assert journal.events("demo") == []  # who only reads does not wait
    threading.Timer(0.3, other.rollback).start()
    assert journal.append(lease, "note").sequence == 1


def test_a_server_that_restarts_is_waited_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it refuses connections for a moment; `test_starved_runs.py` restarts a real one."""
    journal = Journal(postgres_url)
    journal.create_run("waiting", {}, "")
    lease = journal.acquire("waiting", ProcessIdentity("a"), 600)
    tried, connect = [0], sa.Engine.connect

    def refuse_twice(engine: sa.Engine) -> sa.Connection:
        tried[0] += 1
        if tried[0] < 3:
            raise sa.exc.OperationalError("", {}, Exception("the database system is starting up"))
        return connect(engine)

    monkeypatch.setattr(sa.Engine, "connect", refuse_twice)
    assert journal.append(lease, "note").sequence == 1
    monkeypatch.setattr(database, "OUTAGE_SECONDS", 0)
    tried[0] = 0
    with pytest.raises(StorageUnavailableError, match="starting up"):
        Database(postgres_url)


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_clock_that_jumps_gives_no_run_to_two(
    journal: Journal, run: str, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """The clock is the database's. Who holds a run keeps it or loses it as a whole, and nothing is
    written twice.
    """
    elsewhere = ProcessIdentity("a", host="far-away", pid=2**22 + 1, started=0.0, machine="another")
    lease = journal.acquire(run, elsewhere, 20)
    journal.append(lease, "step", 1, "annotation", {})
    clock = journal.database.clock
    monkeypatch.setattr(journal.database, "clock", lambda connection: clock(connection) + jump)
    assert journal.append(lease, "step", 1, "training", {}).sequence == 2
    if jump < 0:
        with pytest.raises(RunBusyError):
            journal.acquire(run, ProcessIdentity("b"), 20)
        assert not lease.renew()
        monkeypatch.undo()
    second = journal.acquire(
        run, ProcessIdentity("b"), 20
    )  # the lease has run out by the clock that counts
    for write in (lambda: journal.append(lease, "note"), lease.renew):
        with pytest.raises(LeaseLostError):
            write()
    assert journal.append(second, "step", 1, "training", {}).sequence == 2
    assert [event.sequence for event in journal.events(run)] == [1, 2]


def test_a_service_without_its_database_says_503(tmp_path: Path) -> None:
    """Neither 401, which would have callers throw their tokens away, nor 404 for runs that are
    there.
    """
    file = tmp_path / "atgen.db"
    journal = Journal(f"sqlite:///{file}")
    journal.create_run("demo", {}, "")
    tokens = Tokens(journal.database)
    token = tokens.create("admin")
    control = RunManager(ServiceConfig(storage=str(tmp_path)), journal)
    app = FastAPI()
    app.include_router(run_routes(control))
    journal.close()
    for path in tmp_path.glob("atgen.db*"):
        path.unlink()
    file.write_bytes(b"no database any more" * 100)
    sessions, auditor = Sessions(journal.database), Auditor(AuditLog(journal.database))
    service = AuthMiddleware(app, tokens, sessions, auditor, LimitsConfig())
    answer = TestClient(service).get("/api/v1/runs", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "cannot be used: file is not a database" in answer.json()["error"]["message"]
    for call in (
        lambda: control.show("demo"),
        lambda: control.stop("demo"),
        lambda: control.resume("demo"),
    ):
        with pytest.raises(StorageUnavailableError):
            call()
