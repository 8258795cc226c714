"""First rows, guessed columns and prompts, before a run: everything real but Serve and Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from helpers.services import bearer
from starlette.testclient import TestClient
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from atgen_ray.config import DataConfig
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.data.column_guess import guess_columns
from atgen_ray.data.preview import read_head
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.database import Database

Post = Callable[..., Any]


@pytest.fixture
def post(tmp_path: Path) -> Post:
    """Sends JSON as an admin and gives status and answer."""
    service = parse_service({"storage": str(tmp_path / "storage"), "data_roots": [str(tmp_path)]})
    client = TestClient(create_api(service, None, None))
    token = Tokens(Database(f"sqlite:///{tmp_path}/storage/atgen.db")).create("admin")

    def send(path: str, config: dict[str, Any], more: str = "") -> Any:
        body = {"config": config, "more": more}
        answer = client.post(f"/api/v1/configs/{path}", json=body, headers=bearer(token))
        return answer.status_code, answer.json()

    return send


@pytest.mark.parametrize(
    ("row", "given", "answer"),
    [
        ({"article": "x" * 50, "highlights": "y"}, "article", "highlights"),
        ({"document": "x", "summary": "y", "id": "3"}, "document", "summary"),
        ({"question": "x", "answers": {"text": ["y"]}}, "question", "answers.text"),
        ({"Frage": "Was ist das?", "Antwort": "y"}, "Frage", "Antwort"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages", None),
        ({"text": "x", "label": 3}, "text", "label"),
        (
            {"id": "1", "fields": {"text": "x"}, "responses": {"q": [{"value": "y"}]}},
            "fields.text",
            "responses.q.value",
        ),
        (
            {
                "id": 1,
                "data": {"text": "x"},
                "annotations": [
                    {"result": [{"value": {"text": ["y"]}}], "completed_by": 1, "lead_time": 2.5}
                ],
            },
            "data.text",
            "annotations.result.value.text",
        ),
        ({"text": "x", "user_input": "y", "answer": "accept"}, "text", "user_input"),
        ({}, None, None),
    ],
)
def test_columns_are_guessed(row: dict[str, Any], given: str | None, answer: str | None) -> None:
    guess = guess_columns([row])
    assert (guess.input, guess.answer) == (given, answer)


def test_rows_and_prompts_are_shown_before_anything_is_chosen(post: Post, tmp_path: Path) -> None:
    (tmp_path / "pool.csv").write_text("Title;Text;Summary\nOne;first text;a\nTwo;second;b\n")
    data: dict[str, Any] = {"pool": str(tmp_path / "pool.csv")}
    status, found = post("preview", {"data": data})
    assert status == 200, found
    assert [column["name"] for column in found["columns"]] == ["Title", "Text", "Summary"]
    assert (found["input"], found["answer"]) == ("Text", "Summary")
    assert found["rows"][0] == {"Title": "One", "Text": "first text", "Summary": "a"}
    assert [prompt["text"] for prompt in found["prompts"]] == ["first text", "second"]
    assert (found["prompts"][0]["tokens"], found["counted"]) == (3, False)
    data |= {"input": "Text", "references": "Summary"}
    template = "{{ Title }}: {{ Text }}"
    _, found = post("preview", {"data": data, "prompt": {"template": template, "system": "Short."}})
    assert found["prompts"][0] | {"tokens": 0} == {
        "system": "Short.", "text": "One: first text", "answer": "a", "error": None, "tokens": 0,
    }  # fmt: skip
    _, found = post("preview", {"data": data, "prompt": {"template": "{{ Summary }}"}})
    assert "'Summary' is undefined" in found["prompts"][0]["error"]


def test_tokens_are_counted_by_the_tokenizer_that_is_here(post: Post, tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"hello": 0, "there": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model/tokenizer.json"))
    (tmp_path / "pool.jsonl").write_text(json.dumps({"text": "hello there, all"}) + "\n")
    tree: dict[str, Any] = {"data": {"pool": str(tmp_path / "pool.jsonl")}}
    _, found = post("preview", tree | {"model": {"id": str(tmp_path / "model")}})
    assert (found["prompts"][0]["tokens"], found["counted"]) == (4, True)
    _, found = post("preview", tree | {"model": {"id": "nobody/nothing"}})
    assert (found["prompts"][0]["tokens"], found["counted"]) == (4, False)
    status, refused = post("preview", tree | {"model": {"id": "/etc"}})
    assert (status, "not below any of the service's data_roots" in str(refused)) == (400, True)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "key 'data.pool' is missing"),
        ({"data": {"pool": "/etc/passwd"}}, "not below any of the service's data_roots"),
        ({"data": {"pool": "gone.csv"}}, "data.pool is"),
        ({"data": {"poool": "gone.csv"}}, "unknown key 'data.poool'; did you mean 'pool'?"),
    ],
)
def test_data_that_cannot_be_shown_is_one_line(
    post: Post, config: dict[str, Any], told: str
) -> None:
    status, refused = post("preview", config)
    assert status == 400
    assert told in refused["error"]["message"]


def test_only_the_beginning_is_read_wherever_it_is() -> None:
    with fsspec.open("memory://head/pool.csv", "w") as file:
        file.write("text;answer\n" + "x;y\n" * 5000)
    rows, errors = read_head(DataConfig(pool="memory://head/pool.csv"), 3)
    assert (rows, errors) == ([{"text": "x", "answer": "y"}] * 3, [])


def test_what_was_chosen_is_a_file_for_the_command_line(post: Post) -> None:
    config = {"name": "mine", "data": {"pool": "a.csv"}}
    _, found = post("yaml", config, "seed: 3")
    assert found["name"] == "mine.yaml"
    assert parse_yaml(found["text"], "it") == {"seed": 3, **config}
    assert post("yaml", {"name": "../x"})[1]["name"] == "run.yaml"
