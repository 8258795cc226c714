"""Files and batches through the official client, unchanged but for its address."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from helpers.replica_server import LocalHandle, serve_replica
from helpers.services import Service

from atgen_ray.config import ServiceConfig
from atgen_ray.config.service import RetentionConfig
from atgen_ray.runs.retention import apply_retention
from atgen_ray.serving.answers import Answers
from atgen_ray.serving.api_files import FileDesk
from atgen_ray.serving.batch_rows import count_questions
from atgen_ray.serving.batches import PART, BatchDesk, BatchWorker
from atgen_ray.serving.replicas.adapter_directory import AdapterDirectory
from atgen_ray.serving.schemas.batches import BatchBody
from atgen_ray.serving.security.rates import ModelBudget
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import AuditLog, Filter
from atgen_ray.store.batches import Batches, BatchParts
from atgen_ray.store.deletions import list_deletions
from atgen_ray.store.journal import open_journal
from atgen_ray.store.tables import api_files, batches


@pytest.fixture(scope="module")
def replica(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve_replica(tmp_path_factory.mktemp("doors"), tiny_model) as served:
        yield served


def write(folder: Path, rows: list[Any], name: str = "questions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ask(number: int, **body: Any) -> dict[str, Any]:
    """A line of a batch."""
    turns = [{"role": "user", "content": f"Count to {number}."}]
    return {
        "custom_id": f"q{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "tiny", "messages": turns, "max_tokens": 3, "temperature": 0} | body,
    }


def talk(answer: str = "red", question: str = "What colour?", **more: Any) -> dict[str, Any]:
    """A line of a fine-tuning file."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns} | more


def wait_for(client: openai.OpenAI, id: str) -> Any:
    deadline = time.monotonic() + 120
    while (batch := client.batches.retrieve(id)).status in ("in_progress", "cancelling"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
    return batch


def as_token(replica: Service, label: str, *scopes: Any) -> openai.OpenAI:
    """A client with a token of its own."""
    tokens = Tokens(open_journal(str(replica.storage), None).database)
    token = tokens.create(label=label, scopes=scopes)
    return openai.OpenAI(base_url=f"{replica.url}/v1", api_key=token, max_retries=0)


def test_a_file_is_kept_listed_read_and_deleted(replica: Service, tmp_path: Path) -> None:
    client = replica.openai()
    path = write(tmp_path, [talk("red"), talk("blue")], "colours.jsonl")
    with path.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    assert (file.filename, file.purpose, file.bytes) == (
        "colours.jsonl",
        "fine-tune",
        path.stat().st_size,
    )
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == path.read_bytes()
    second = client.files.create(file=path, purpose="fine-tune")
    assert [each.id for each in client.files.list(purpose="fine-tune")][:2] == [second.id, file.id]
    assert client.files.list(limit=1).has_more
    assert list(client.files.list(purpose="batch_output")) == []
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match=file.id):
        client.files.content(file.id)
    client.files.delete(second.id)
    assert not list((replica.storage / "uploads").glob("file-*"))
    certificates = list_deletions(open_journal(str(replica.storage), None))
    assert [record.kind for record in certificates] == ["upload", "upload"]


@pytest.mark.parametrize(
    ("purpose", "lines", "why"),
    [
        ("fine-tune", ["{"], "line 1 is no JSON"),
        ("fine-tune", [talk(), {"messages": []}], "line 2 has no messages"),
        ("fine-tune", [talk(), "", {"prompt": "x"}], "line 3 has the key 'prompt'"),
        ("fine-tune", [talk(), {"messages": talk()["messages"][:1]}], "line 2 ends without one"),
        ("fine-tune", [{"messages": talk()["messages"][:1]}, talk()], "line 2 ends with an answer"),
        (
            "fine-tune",
            [{"messages": [*talk()["messages"], {"role": "system", "content": "s"}]}],
            "roles user, assistant, system, expected",
        ),
        ("fine-tune", [{"messages": talk()["messages"][1:]}], "no turn of the user before"),
        ("fine-tune", [talk(answer="")], "role 'assistant' without text"),
        (
            "fine-tune",
            [{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}],
            "a part of type 'image_url' in turn 1",
        ),
        (
            "fine-tune",
            [
                {
                    "messages": [
                        talk()["messages"][0],
                        {"role": "assistant", "content": "a", "weight": 0},
                    ]
                }
            ],
            "weight 0 on its last answer",
        ),
        ("fine-tune", [talk(tools=[{"type": "function"}])], "no name in tool 1"),
        ("fine-tune", [], "the file has no lines"),
        ("batch", [ask(1), ask(1)], "line 2 has the custom_id 'q1' once more"),
        ("batch", [ask(1) | {"url": "/v1/chat"}], "did you mean '/v1/chat/completions'"),
        ("batch", [ask(1) | {"method": "GET"}], "expected POST"),
        ("batch", [{"url": "/v1/completions", "body": {}}], "line 1 has no custom_id"),
        ("assistants", [talk()], "purpose is 'assistants'"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(
    replica: Service, tmp_path: Path, purpose: Any, lines: list[Any], why: str
) -> None:
    path = tmp_path / "file.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text))
    with pytest.raises(openai.BadRequestError, match=why) as told:
        replica.openai().files.create(file=path, purpose=purpose)
    assert "\n" not in told.value.body["message"]  # type: ignore[index]
    assert list(replica.openai().files.list()) == []


def test_a_batch_is_answered_whole_with_its_errors_apart(replica: Service, tmp_path: Path) -> None:
    client = replica.openai()
    long = ask(99, messages=[{"role": "user", "content": "word " * 600}])
    file = client.files.create(file=write(tmp_path, [*map(ask, range(20)), long]), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"kind": "test"},
    )
    done = wait_for(client, batch.id)
    assert done.status == "completed"
    assert done.request_counts.model_dump() == {"total": 21, "completed": 20, "failed": 1}
    assert done.metadata == {"kind": "test"}
    lines = [json.loads(line) for line in client.files.content(done.output_file_id).iter_lines()]
    assert [line["custom_id"] for line in lines] == [f"q{number}" for number in range(20)]
    direct = client.chat.completions.create(**ask(7)["body"])
    assert lines[7]["response"]["body"]["choices"][0]["message"]["content"] == (
        direct.choices[0].message.content
    )
    (wrong,) = client.files.content(done.error_file_id).iter_lines()
    assert json.loads(wrong)["response"]["status_code"] == 400
    assert "leaves room for 0" in json.loads(wrong)["error"]["message"]
    assert next(iter(client.batches.list())).id == batch.id
    assert not list((replica.storage / "uploads").glob(".batch_*"))  # its parts
    with pytest.raises(openai.BadRequestError, match="is completed"):
        client.batches.cancel(batch.id)


def test_a_batch_that_cannot_be_asked_is_refused_at_once(replica: Service, tmp_path: Path) -> None:
    client = replica.openai()
    for row, why in (
        (ask(1, model="gpt-4"), "question 1: model 'gpt-4' is unknown"),
        (ask(1, temprature=1), "did you mean 'temperature'"),
        (ask(1, stream=True), "expected false"),
    ):
        file = client.files.create(file=write(tmp_path, [row]), purpose="batch")
        with pytest.raises(openai.APIStatusError, match=why) as told:
            client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
        assert told.value.status_code in (400, 404)
    with pytest.raises(openai.BadRequestError, match="is for /v1/chat/completions"):
        client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )


def test_callers_see_their_own_files_and_batches(replica: Service, tmp_path: Path) -> None:
    ann, ben = as_token(replica, "ann", "infer"), as_token(replica, "ben", "infer")
    file = ann.files.create(file=write(tmp_path, [ask(1)]), purpose="batch")
    asked: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions"}
    with pytest.raises(openai.NotFoundError):
        ben.batches.create(**asked, completion_window="24h")
    for call in (ben.files.retrieve, ben.files.content, ben.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    assert list(ben.files.list()) == []
    assert replica.openai().files.retrieve(file.id).id == file.id  # an admin sees all
    key = {"Idempotency-Key": "once"}
    first = ann.batches.create(**asked, completion_window="24h", extra_headers=key)
    again = ann.batches.create(**asked, completion_window="24h", extra_headers=key)
    assert first.id == again.id
    with pytest.raises(openai.ConflictError, match="another request"):
        ann.batches.create(**asked, completion_window="24h", metadata={"a": "b"}, extra_headers=key)
    with pytest.raises(openai.NotFoundError):
        ben.batches.retrieve(first.id)
    with pytest.raises(openai.PermissionDeniedError):
        ann.fine_tuning.jobs.list()
    output = wait_for(ann, first.id).output_file_id
    assert ann.files.retrieve(output).purpose == "batch_output"
    with pytest.raises(openai.NotFoundError):
        ben.files.content(output)


def test_files_expire_and_retention_removes_them(replica: Service, tmp_path: Path) -> None:
    client = replica.openai()
    journal = open_journal(str(replica.storage), None)
    hour: Any = {"anchor": "created_at", "seconds": 3_600}
    questions = write(tmp_path, [ask(1)])
    file = client.files.create(file=questions, purpose="batch", expires_after=hour)
    assert file.expires_at == file.created_at + 3_600
    assert client.files.retrieve(file.id) == file
    for wrong, param in (
        (hour | {"seconds": 3_599}, "seconds"),
        (hour | {"anchor": "x"}, "anchor"),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            client.files.create(file=questions, purpose="batch", expires_after=wrong)
        assert told.value.param == f"expires_after.{param}"
    asked: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.batches.create(
        input_file_id=file.id, **asked, output_expires_after=hour | {"seconds": 7_200}
    )
    output = client.files.retrieve(wait_for(client, batch.id).output_file_id)
    assert output.expires_at == output.created_at + 7_200
    kept = client.files.create(file=questions, purpose="batch")

    def expire(*ids: str) -> None:
        with journal.database.writing() as connection:
            here = api_files.c.id.in_(ids)
            connection.execute(sa.update(api_files).where(here).values(expires=1.0))

    def tidy() -> list[str]:
        return apply_retention(journal, str(replica.storage), RetentionConfig())

    expire(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    assert tidy() == [f"upload {file.id}.jsonl"]
    expire(output.id)
    listed = {each.id for each in client.files.list()}
    assert listed & {file.id, output.id, kept.id} == {kept.id}
    assert tidy() == [f"upload {output.id}.jsonl"]
    assert tidy() == []
    left = {path.stem for path in (replica.storage / "uploads").iterdir()}
    assert left & {file.id, output.id, kept.id} == {kept.id}
    expire(kept.id)
    entered = Batches(journal).enter("tests", "t", None, {"input_file_id": kept.id}, 1)
    assert tidy() == []  # a batch reads it
    Batches(journal).take("worker")
    Batches(journal).end(entered.id, "worker", "failed")
    assert tidy() == [f"upload {kept.id}.jsonl"]


def test_changes_by_an_admin_are_in_the_audit_log(replica: Service, tmp_path: Path) -> None:
    client = replica.openai()
    file = client.files.create(file=write(tmp_path, [talk()]), purpose="fine-tune")
    client.files.delete(file.id)
    log = AuditLog(open_journal(str(replica.storage), None).database)
    entries = [entry for entry in log.read(Filter()) if entry["target"] == file.id]
    assert [entry["action"].split()[0] for entry in entries] == ["POST", "DELETE"]


def test_too_large_a_file_and_a_form_without_one_are_refused(
    tiny_model: str, tmp_path: Path
) -> None:
    limits = {"upload_bytes": 1000}
    with serve_replica(tmp_path, tiny_model, limits=limits) as small:
        client = small.openai()
        with pytest.raises(openai.APIStatusError) as told:
            client.files.create(file=write(tmp_path, [talk()] * 2000), purpose="fine-tune")
        assert told.value.status_code == 413
        for given in ({"data": {"purpose": "batch"}}, {"content": b"x"}):
            answer = small.client().post("/v1/files", **given)
            assert answer.status_code == 400, answer.text


def test_a_batch_goes_on_behind_what_a_dead_worker_has_answered(
    tiny_model: str, tmp_path: Path
) -> None:
    service = ServiceConfig.model_validate(
        {
            "storage": str(tmp_path),
            "model": {"id": tiny_model, "dtype": "float32"},
            "model_name": "tiny",
            "engine": {"backend": "transformers", "threads_per_worker": 1},
        }
    )
    journal = open_journal(str(tmp_path), None)
    tokens = Tokens(journal.database)
    caller = tokens.identify(tokens.create("admin", "root"))
    assert caller is not None
    files = FileDesk(journal, str(tmp_path), service.limits, count_questions)
    count = 2 * PART + 3
    rows = write(tmp_path, [ask(number) for number in range(count)])
    file = files.store.add(rows, "rows.jsonl", "batch", count, caller.name)
    body = BatchBody(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    async def play() -> None:
        directory = AdapterDirectory(service.target_model, "tiny", str(tmp_path), journal)
        answers = Answers(directory, LocalHandle(service), None, "", ModelBudget(journal.database))
        batch = BatchDesk(journal, files, answers).create(body, None, caller)
        first, second = (BatchWorker(journal, str(tmp_path), files, answers) for _ in range(2))
        working = asyncio.create_task(first.work())
        parts = BatchParts(str(tmp_path), batch.id)
        while parts.read(0) is None:
            await asyncio.sleep(0.01)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        kept = parts.read(0)
        # One that is killed gives nothing back: its hold has to end.
        table = Batches(journal)
        assert table.take("killed") is not None
        assert await second.work() is False
        with journal.database.writing() as connection:
            connection.execute(sa.update(batches).values(expires=0.0))
        assert await second.work() is True
        assert table.advance(batch.id, "killed", 0, 0) is None  # who lost the hold writes nothing
        done = table.find(batch.id, None)
        assert done is not None
        assert (done.status, done.completed, done.failed) == ("completed", count, 0)
        with files.store.open(files.find(str(done.output), caller)) as lines:
            told = [json.loads(line) for line in lines]
        assert [line["custom_id"] for line in told] == [f"q{number}" for number in range(count)]
        assert told[:PART] == kept  # nothing that was answered is asked again
        gone = BatchDesk(journal, files, answers).create(body, None, caller)
        (tmp_path / "uploads" / file.upload).unlink()
        assert await second.work() is True
        failed = table.find(gone.id, None)
        assert failed is not None
        assert failed.status == "failed"
        assert "cannot be read" in str(failed.message)

    asyncio.run(play())
