"""Titles, archive and removal of runs over HTTP, and streams of events of people who are sent away.
Everything real but Serve.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.desk_server import DeskServer, run_desk_server
from helpers.services import bearer

from atgen_ray.serving.people import revoke_person
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeskServer]:
    with run_desk_server(tmp_path_factory.mktemp("runs")) as server:
        yield server


@pytest.fixture(scope="module")
def journal(server: DeskServer) -> Iterator[Journal]:
    with server.open_journal() as journal:
        yield journal


@pytest.fixture(scope="module")
def admin(server: DeskServer, journal: Journal) -> Iterator[httpx.Client]:
    token = Tokens(journal.database).create("admin", "root")
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=bearer(token)) as client:
        yield client


def begin(journal: Journal, name: str) -> Any:
    """A run that a controller drives; its lease."""
    journal.create_run(name, {}, "")
    lease = journal.acquire(name, ProcessIdentity("controller"), 600)
    journal.set_status(lease, "running")
    return lease


def test_a_run_is_renamed_archived_and_removed(
    admin: httpx.Client, journal: Journal, server: DeskServer
) -> None:
    lease = begin(journal, "sonnets")
    assert admin.put("/runs/sonnets/title", json={"title": "Sonnets, again"}).status_code == 200
    assert admin.put("/runs/sonnets/title", json={"title": " x"}).status_code == 400
    assert admin.put("/runs/sonnets/archived", json={"archived": True}).status_code == 200
    (row,) = admin.get("/runs").json()
    assert (row["name"], row["title"], row["archived"]) == ("sonnets", "Sonnets, again", True)
    folder = Path(server.storage, "runs", "sonnets")
    folder.mkdir(parents=True)

    def remove(confirm: str) -> int:
        return admin.request("DELETE", "/runs/sonnets", json={"confirm": confirm}).status_code

    assert (remove("sonnet"), remove("sonnets")) == (409, 409)  # the latter: it is driven
    lease.release()
    assert folder.exists()
    assert (remove("sonnets"), remove("sonnets")) == (200, 404)
    assert admin.get("/runs").json() == []
    assert not folder.exists()


def test_a_stream_ends_with_the_session_of_its_person(journal: Journal, server: DeskServer) -> None:
    begin(journal, "haiku")
    token = Tokens(journal.database).create("annotator", "eve", runs=["haiku"])
    threading.Timer(1.0, revoke_person, (journal, "eve")).start()
    began = time.monotonic()
    address = f"{server.url}/api/v1/runs/haiku/events"
    with httpx.stream("GET", address, headers=bearer(token), timeout=60) as stream:
        assert stream.status_code == 200
        assert "event: end" not in stream.read().decode()
    assert time.monotonic() - began < 30
