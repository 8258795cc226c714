"""Whether the service is ready, with each dependency taken away; the process lives all the while."""

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from atgen_ray.core.errors import StorageUnavailableError
from atgen_ray.serving import readiness, resumption
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.readiness import Readiness, check_replicas, check_storage


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A service whose replicas are there by what Serve says."""
    monkeypatch.setattr(readiness, "KEPT_SECONDS", 0.0)
    monkeypatch.setattr(readiness, "deployment_states", lambda: {"api": "HEALTHY"})
    (tmp_path / "runs").mkdir()
    database = f"sqlite:///{tmp_path}/journal.db"
    app = create_api(
        parse_service({"storage": str(tmp_path / "runs"), "database_url": database}), None, None
    )
    with TestClient(app) as opened:
        yield opened


def ask(client: TestClient) -> list[str]:
    """What fails; empty if the service is ready. It lives in any case."""
    assert client.get("/healthz").json() == {"status": "ok"}
    answer = client.get("/readyz")
    if answer.status_code == 200:
        assert answer.json() == {"status": "ready"}
        return []
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    return list(answer.json()["failing"])


def test_each_dependency_that_is_taken_away_is_named(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(client) == []
    shutil.move(tmp_path / "runs", tmp_path / "away")
    assert ask(client) == ["storage"]
    shutil.move(tmp_path / "away", tmp_path / "runs")
    assert ask(client) == []
    assert [*(tmp_path / "runs").iterdir()] == []  # the probe is gone

    with sqlite3.connect(tmp_path / "journal.db") as connection:  # as a newer version leaves it
        connection.execute("UPDATE atgen_revision SET version_num = '9999'")
    assert ask(client) == ["database"]
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        newest = "SELECT max(version_num) FROM atgen_revision"
        assert connection.execute(newest).fetchone() == ("9999",)
    monkeypatch.setattr(
        readiness, "deployment_states", lambda: {"api": "HEALTHY", "model": "UNHEALTHY"}
    )
    assert ask(client) == ["database", "replicas"]
    with pytest.raises(StorageUnavailableError, match="model is UNHEALTHY"):
        check_replicas()
    monkeypatch.setattr(readiness, "deployment_states", dict)
    with pytest.raises(StorageUnavailableError, match="is not deployed"):
        check_replicas()


def test_a_loop_that_hangs_is_named(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop that goes on with interrupted runs, in the middle of a look."""
    hangs, looked = threading.Event(), threading.Event()

    def look(self: Any) -> list[str]:
        looked.set()
        hangs.wait(30)
        return []

    monkeypatch.setattr(resumption.Resumption, "look", look)
    app: Any = client.app
    stop = app.state.runs.keep_going()
    assert looked.wait(10)
    assert ask(client) == []
    monkeypatch.setattr(resumption, "STUCK_SECONDS", 0.0)
    time.sleep(0.01)
    with caplog.at_level(logging.WARNING, "atgen_ray"):
        assert ask(client) == ["resumption"]
    assert "no look at interrupted runs" in caplog.text
    stop.set()
    hangs.set()


def test_what_hangs_is_named_and_the_others_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "READY_SECONDS", 0.05)
    hangs = threading.Event()

    def hang() -> None:
        hangs.wait()

    def fail() -> None:
        raise OSError("read-only")

    async def scene() -> dict[str, str]:
        found = await Readiness({"a": lambda: None, "b": hang, "c": fail}).find()
        hangs.set()
        return found

    assert asyncio.run(scene()) == {"b": "no answer in 0.05 s", "c": "OSError: read-only"}


def test_the_folder_of_the_storage_is_made_and_none_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that waits for its first run is ready; one whose volume is not mounted is not."""
    monkeypatch.setattr(readiness, "deployment_states", lambda: {"api": "HEALTHY"})
    database = f"sqlite:///{tmp_path}/journal.db"
    for storage, failing in (("volume/runs", ["storage"]), ("runs", [])):
        service = parse_service({"storage": str(tmp_path / storage), "database_url": database})
        with TestClient(create_api(service, None, None)) as opened:
            assert ask(opened) == failing
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "volume").exists()


def test_a_storage_that_is_no_folder_is_not_ready(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(NotADirectoryError):
        check_storage(str(file))
