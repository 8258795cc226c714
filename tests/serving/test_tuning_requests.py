"""What a fine-tuning job may ask for, and the names of its models. Without Ray: nothing starts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers.replica_server import serve_replica
from helpers.services import Service

from atgen_ray.config import ServiceConfig
from atgen_ray.core.errors import UserError
from atgen_ray.serving.active_jobs import configure_active
from atgen_ray.serving.application import parse_service
from atgen_ray.serving.schemas.fine_tuning import TuningBody
from atgen_ray.serving.tuned_names import find_tuning_run, name_model, name_run
from atgen_ray.serving.tuning_rows import read_rows
from atgen_ray.store.journal import open_journal
from atgen_ray.store.tuning_jobs import TuningJobs

ID = "0123456789ab"


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose model is never loaded."""
    people = {"type": "human", "price_per_label": 0.5}
    asked = {"annotators": {"staff": people, "crowd": people}, "labels": 100, "dollars": 20}
    folder = tmp_path_factory.mktemp("jobs")
    with serve_replica(folder, "package://nowhere/model", active_jobs=asked) as served:
        yield served


def keep(replica: Service, folder: Path, *systems: str | None, purpose: Any = "fine-tune") -> str:
    """The id of a file with a row for each system message."""
    rows = []
    for system in systems:
        before = f'{{"role": "system", "content": "{system}"}}, ' if system else ""
        rows.append(
            f'{{"messages": [{before}{{"role": "user", "content": "q"}}, '
            f'{{"role": "assistant", "content": "a"}}]}}'
        )
    path = folder / "rows.jsonl"
    path.write_text("\n".join(rows))
    return replica.openai().files.create(file=path, purpose=purpose).id


@pytest.mark.parametrize("suffix", ["", "mine", "my-own-2"])
def test_the_name_of_a_model_and_its_run_stand_for_each_other(suffix: str) -> None:
    run = name_run(suffix, ID)
    model = name_model("tiny", run)
    assert model == f"ft:tiny:{suffix}:{ID}"
    assert find_tuning_run("tiny", model) == run
    assert len(name_run("x" * 40, ID)) <= 63


@pytest.mark.parametrize(
    "model",
    ["ft:tiny", f"ft:other::{ID}", "ft:tiny::xyz", f"ft:tiny:{ID}", f"ft:tiny:A:{ID}", "tiny"],
)
def test_other_names_are_no_fine_tuned_models(model: str) -> None:
    assert find_tuning_run("tiny", model) is None
    assert name_model("tiny", "sort") is None


def test_one_system_message_is_that_of_the_whole_file() -> None:
    row = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    found = read_rows([row, b"\n", row])
    assert (found.rows, found.system) == (2, None)


def test_other_files_are_trained_on_as_conversations() -> None:
    asked = {"role": "user", "content": "Where?"}
    said = {"role": "assistant", "content": "Here."}
    system = {"role": "system", "content": "S"}
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    told = {"role": "tool", "tool_call_id": "c", "content": "there"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    files: list[tuple[list[dict[str, Any]], bool]] = [
        ([{"messages": [asked, said]}, {"messages": [system, asked, said]}], False),
        ([{"messages": [asked, said, asked, said]}], True),
        ([{"messages": [asked, said | {"weight": 0}, asked, said]}], False),
        ([{"messages": [asked, called], "tools": tools}], False),
        ([{"messages": [asked, called, told, said], "tools": tools}], True),
    ]
    for rows, before in files:
        found = read_rows(json.dumps(row).encode() for row in rows)
        assert (found.plain, found.system, found.answers_before) == (False, None, before)
        assert found.rows == len(rows)


def test_a_job_that_cannot_be_is_refused_and_leaves_nothing(
    replica: Service, tmp_path: Path
) -> None:
    jobs = replica.openai().fine_tuning.jobs
    good = keep(replica, tmp_path, "S")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"model": "gpt-4"}, "model is 'gpt-4', expected tiny"),
        ({"training_file": "file-none"}, "'file-none' is unknown"),
        ({"suffix": "a b"}, "suffix"),
        ({"hyperparameters": {"n_epochs": 0}}, "n_epochs"),
        ({"method": {"type": "dpo"}}, "supervised"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
    ]
    for given, why in refused:
        with pytest.raises(openai.APIStatusError, match=why) as told:
            jobs.create(**{"model": "tiny", "training_file": good} | given)
        assert told.value.status_code in (400, 404, 422)
    with pytest.raises(openai.NotFoundError):
        jobs.retrieve("ftjob-none")
    assert list(jobs.list()) == []
    assert TuningJobs(open_journal(str(replica.storage), None)).list(None) == []


def keep_pool(replica: Service, folder: Path, count: int, answer: str | None = None) -> str:
    """The id of a file of questions, each with the answer where there is one."""
    path = folder / "pool.jsonl"
    with path.open("w") as file:
        for index in range(count):
            turns = [{"role": "user", "content": f"What colour has house {index}?"}]
            turns += [{"role": "assistant", "content": answer}] if answer else []
            file.write(json.dumps({"messages": turns}) + "\n")
    return replica.openai().files.create(file=path, purpose="fine-tune").id


def test_an_active_job_that_cannot_be_is_refused_by_its_parameter(
    replica: Service, tmp_path: Path
) -> None:
    jobs = replica.openai().fine_tuning.jobs
    pool = keep_pool(replica, tmp_path, 30)
    answered = keep_pool(replica, tmp_path, 3, "red")
    budget = {"labels": 20}
    refused: list[tuple[dict[str, Any], dict[str, Any], str | None, str]] = [
        ({"budget": budget}, {}, "annotator", "is missing, expected one of crowd, staff"),
        ({"budget": budget, "annotator": "stuff"}, {}, "annotator", "did you mean 'staff'"),
        (
            {"budget": budget, "annotator": "staff", "strategy": "hud"},
            {},
            "strategy",
            "did you mean 'huds'",
        ),
        ({"budget": {"labels": 101}, "annotator": "staff"}, {}, "budget.labels", "at most 100"),
        ({"budget": {"dollars": 21}, "annotator": "staff"}, {}, "budget.dollars", "at most 20"),
        ({"budget": {}, "annotator": "staff"}, {}, "budget", "expected labels, dollars"),
        ({"budget": {"labels": 8}, "annotator": "staff"}, {}, "audit_labels", "0 measures nothing"),
        (
            {"budget": budget, "annotator": "staff", "audit_labels": 5},
            {},
            "audit_labels",
            "expected 0, or 8 or more",
        ),
        (
            {"budget": budget, "annotator": "staff"},
            {"training_file": answered},
            "training_file",
            "has rows with answers, expected rows without answers",
        ),
        (
            {"budget": budget, "annotator": "staff"},
            {"validation_file": pool},
            "validation_file",
            "expected rows with answers",
        ),
    ]
    for active, beside, param, why in refused:
        method: Any = {"type": "active", "active": active}
        with pytest.raises(openai.APIStatusError, match=why) as told:
            jobs.create(**{"model": "tiny", "training_file": pool, "method": method} | beside)
        body: Any = told.value.body
        expected = param if param in beside else f"method.active.{param}"
        assert (body["param"], body["type"]) == (expected, "invalid_request_error")
        assert "\n" not in body["message"]
    supervised: Any = {"type": "active", "supervised": {}}
    with pytest.raises(openai.UnprocessableEntityError, match="active is missing"):
        jobs.create(model="tiny", training_file=pool, method=supervised)
    with pytest.raises(openai.BadRequestError, match="has rows without answers") as told:
        jobs.create(model="tiny", training_file=pool)
    assert told.value.param == "training_file"
    assert list(jobs.list()) == []


def test_a_budget_becomes_rounds_and_an_audit() -> None:
    staff = {"annotators": {"staff": {"type": "human"}}, "labels": 500, "dollars": 9.0}
    service = ServiceConfig.model_validate({"active_jobs": staff})

    def configure(rows: int, validation: str | None = None, **active: Any) -> dict[str, Any]:
        method = {"type": "active", "active": active}
        asked = {"model": "tiny", "training_file": "f", "method": method}
        body = TuningBody.model_validate(asked | {"validation_file": validation})
        return configure_active(body, rows, service)

    found = configure(1000, budget={"labels": 100})
    assert found["evaluation"] == {"audit": {"labels": 25}}
    assert found["selection"] == {"count": 19}  # four rounds of 75 labels
    assert found["stopping"] == {"rounds": 4, "labels": 100, "dollars": 9.0}
    assert found["annotator"]["type"] == "human"
    found = configure(1000, "v", budget={"dollars": 2}, rounds=10, strategy="random")
    assert (found["evaluation"], found["stopping"]["labels"]) == ({}, 500)
    assert found["selection"] == {"strategy": "random", "count": 50}
    assert found["stopping"]["dollars"] == 2
    found = configure(12, budget={"labels": 40}, audit_labels=8)
    assert found["stopping"] == {"rounds": 4, "labels": 12, "dollars": 9.0}


def test_annotators_of_jobs_are_checked_when_the_service_starts() -> None:
    for annotator, why in (({"type": "dataset"}, "type dataset"), ({"type": "humans"}, "human")):
        with pytest.raises(UserError, match=why):
            parse_service({"active_jobs": {"annotators": {"staff": annotator}}})
