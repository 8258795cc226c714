"""What one takes home over HTTP: a data set and an adapter as archives, and a card. Everything real
but Serve.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.desk_server import DeskServer, run_desk_server
from helpers.services import bearer
from helpers.tuned_run import make_small_model, make_tuned_run

from atgen_ray.runs.exporting.archive import PIECE, stream_zip
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import AuditLog
from atgen_ray.store.exports import list_exports


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeskServer]:
    folder = tmp_path_factory.mktemp("packed")
    make_small_model(folder / "model")
    make_tuned_run(str(folder / "storage"), str(folder / "model"))
    with run_desk_server(folder / "storage") as server:
        yield server


def open_client(server: DeskServer, role: str, **grants: object) -> httpx.Client:
    with server.open_journal() as journal:
        token = Tokens(journal.database).create(role, f"tests-{role}", **grants)  # type: ignore[arg-type]
    return httpx.Client(base_url=server.url, headers=bearer(token), timeout=60)


def test_an_adapter_a_data_set_and_a_card_are_downloaded(server: DeskServer) -> None:
    address = "/api/v1/runs/sort/export"
    with open_client(server, "admin") as admin:
        answer = admin.get(address, params={"what": "adapter", "round": 1})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/zip"
        assert 'filename="sort-adapter.zip"' in answer.headers["content-disposition"]
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            weights = archive.read("adapter_model.safetensors")
            assert "round 1 of the run" in archive.read("README.md").decode()
        first = server.storage / "runs/sort/rounds/001/adapter/adapter_model.safetensors"
        assert weights == first.read_bytes()
        packed = admin.get(address, params={"what": "dataset"}).content
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            assert len(archive.read("labels.jsonl").splitlines()) == 4
        card = admin.get(address, params={"what": "card"})
        assert card.text.startswith("---\n")
        chats = admin.get(address, params={"format": "openai"}).text.splitlines()
        assert len(json.loads(chats[0])["messages"]) == 3
        missing = admin.get(address, params={"what": "adapter", "round": 9})
        assert missing.status_code == 400
        assert "round 9 of run 'sort' has no adapter" in missing.text
        assert admin.get(address, params={"what": "merged"}).status_code == 422
        page = admin.get("/runs/sort").text
        for what in ("dataset", "adapter", "card"):
            assert f'href="/api/v1/runs/sort/export?what={what}"' in page
    with server.open_journal() as journal:
        found = [(each.format, each.by, each.place) for each in list_exports(journal, ["sort"])]
        assert found[:3] == [(each, "tests-admin", None) for each in ("adapter", "dataset", "card")]
        said = [entry["action"] for entry in AuditLog(journal.database).read()]
    assert said.count(f"GET {address}") >= 4


def test_annotators_take_nothing_home(server: DeskServer) -> None:
    with open_client(server, "annotator") as person:
        answer = person.get("/api/v1/runs/sort/export", params={"what": "adapter"})
        assert answer.status_code == 403


def test_an_archive_is_sent_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/large").write_bytes(b"weights" * (PIECE // 3))
    (tmp_path / "empty").touch()
    parts = list(stream_zip(tmp_path))
    assert max(map(len, parts)) < 2 * PIECE
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["below/large", "empty"]
        assert archive.read("below/large") == (tmp_path / "below/large").read_bytes()
