"""Whatever goes wrong behind a route is one line of JSON with the right status; a traceback is in
the log alone.
"""

import json
import logging
import os
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import ray
from fastapi import FastAPI
from helpers.forks import run_command
from starlette.testclient import TestClient

from atgen_ray.annotation.human.task_store import TaskConflictError, TaskUnknownError
from atgen_ray.core.errors import (
    PoolExhausted,
    RunBusyError,
    StorageFullError,
    StorageUnavailableError,
    UserError,
)
from atgen_ray.serving.errors import ApiError, add_error_handlers
from atgen_ray.serving.pages.rendering import show_error
from atgen_ray.store.journal import open_journal

RAISED = [
    (ApiError(413, "too much of it"), 413),
    (UserError("data.input is 'wrods', expected a column; did you mean 'words'?"), 400),
    (PoolExhausted("nothing is left in the pool"), 400),
    (RunBusyError("run 'a' is driven by process 1"), 409),
    (TaskConflictError("the task is taken"), 409),
    (TaskUnknownError("no such task"), 404),
    (StorageUnavailableError("database x cannot be used"), 503),
    (StorageFullError("storage x cannot be used: No space left on device"), 507),
    (OSError(28, "No space left on device"), 507),
]


@ray.remote(num_cpus=0, max_retries=0)
def fail(error: Exception) -> None:
    raise error


@ray.remote(num_cpus=0, max_retries=0)
def fail_further_in(error: Exception) -> None:
    ray.get(fail.remote(error))


@ray.remote(num_cpus=0, max_restarts=0)
class Mortal:
    def answer(self) -> None:
        ray.actor.exit_actor()


@pytest.fixture(scope="module")
def client() -> TestClient:
    """An application whose one route does what a test asks for."""
    app = FastAPI()
    add_error_handlers(app, 7, show_error)

    @app.get("/api/do")
    def do() -> Any:
        return app.state.act()

    @app.post("/api/items")
    def take(item: dict[str, int]) -> dict[str, int]:
        return item

    return TestClient(app)


def ask(client: TestClient, act: Any) -> tuple[int, str, dict[str, Any]]:
    """Status, message and headers of the answer, which is one line of plain text in JSON."""
    app: Any = client.app
    app.state.act = act
    answer = client.get("/api/do")
    error = answer.json()["error"]
    assert error["code"] == answer.status_code
    assert "\n" not in error["message"]
    assert "\x1b" not in error["message"]
    assert len(error["message"]) < 400
    return answer.status_code, error["message"], dict(answer.headers)


@pytest.mark.parametrize(("error", "status"), RAISED, ids=lambda each: type(each).__name__)
def test_what_a_task_raised_is_told_as_if_it_was_raised_here(
    ray_session: None, client: TestClient, error: Exception, status: int
) -> None:
    def raise_here() -> None:
        raise error

    here = ask(client, raise_here)
    assert here[0] == status
    assert ask(client, lambda: ray.get(fail.remote(error)))[:2] == here[:2]
    assert ask(client, lambda: ray.get(fail_further_in.remote(error)))[:2] == here[:2]
    assert ("retry-after" in here[2]) is (status == 503)


def test_a_part_that_is_lost_is_not_the_callers_fault(
    ray_session: None, client: TestClient
) -> None:
    status, message, headers = ask(client, lambda: ray.get(Mortal.remote().answer.remote()))  # type: ignore[attr-defined]
    assert (status, headers["retry-after"]) == (503, "7")
    assert message.startswith("a part of the service was lost: ")


def test_a_full_disk_is_507(client: TestClient) -> None:
    def write() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    assert ask(client, write)[0] == 507


def test_what_is_nested_too_deeply_is_the_callers_fault(client: TestClient) -> None:
    assert ask(client, lambda: json.loads("[" * 100_000))[0] == 400
    answer = client.post(
        "/api/items", content="[" * 100_000, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == 400


def test_what_nobody_foresaw_has_an_id_and_its_traceback_is_in_the_log_alone(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, message, _ = ask(client, lambda: 1 / 0)
    assert status == 500
    (record,) = [each for each in caplog.records if each.name == "atgen_ray.serving.errors"]
    request_id = message.rpartition(" ")[2]
    assert f"request {request_id}: GET /api/do failed" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_ray_that_does_not_start_is_one_line(tmp_path: Path, tiny_model: str) -> None:
    """In a process of its own, which looks for Ray where it cannot be."""
    (tmp_path / "pool.csv").write_text("text,answer\na,b\n")
    script = f"""
        from starlette.testclient import TestClient
        from atgen_ray.store.database import Database
        from atgen_ray.serving.security.tokens import Tokens
        from atgen_ray.serving.application import create_api, parse_service
        folder = {str(tmp_path)!r}
        app = create_api(parse_service({{"storage": folder, "data_roots": [folder, {tiny_model!r}]}}), None, None)
        token = Tokens(Database(f"sqlite:///{{folder}}/atgen.db")).create("admin")
        data = {{"pool": f"{{folder}}/pool.csv", "input": "text", "references": "answer"}}
        run = {{"name": "mine", "data": data, "model": {{"id": {tiny_model!r}}}}}
        client = TestClient(app, headers={{"Authorization": f"Bearer {{token}}"}})
        for path, body in (("/api/v1/runs", run), ("/api/v1/configs/plan", {{"config": run}})):
            answer = client.post(path, json=body)
            print(answer.status_code, answer.json()["error"]["message"])
    """
    environment = os.environ | {"RAY_ADDRESS": "nonsense"}
    done = run_command("-c", textwrap.dedent(script), env=environment, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all(
        line.startswith("503 RAY_ADDRESS is 'nonsense', whose cluster cannot be joined: ")
        for line in lines
    ), lines
    with closing(open_journal(str(tmp_path))) as journal:
        assert journal.runs() == []  # nothing was entered that nobody drives
