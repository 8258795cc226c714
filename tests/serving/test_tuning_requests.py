"""What a fine-tuning job may ask for, and the names of its models. Without Ray: nothing starts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers.replica_server import serve_replica
from helpers.services import Service

from atgen_ray.serving.tuned_names import find_adapter, name_model, name_run
from atgen_ray.serving.tuning_rows import read_rows
from atgen_ray.store.journal import open_journal
from atgen_ray.store.tuning_jobs import TuningJobs

ID = "0123456789ab"


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose model is never loaded."""
    with serve_replica(tmp_path_factory.mktemp("jobs"), "package://nowhere/model") as served:
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
    assert find_adapter("tiny", model) == f"{run}-1"
    assert len(name_run("x" * 40, ID)) <= 63


@pytest.mark.parametrize(
    "model",
    ["ft:tiny", f"ft:other::{ID}", "ft:tiny::xyz", f"ft:tiny:{ID}", f"ft:tiny:A:{ID}", "tiny"],
)
def test_other_names_are_no_fine_tuned_models(model: str) -> None:
    assert find_adapter("tiny", model) is None
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
