"""Fine-tuning jobs by the official client, unchanged but for its address, over the whole
service.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers.labelling import label
from helpers.services import Service

COLOURS = ("red", "blue", "green", "white")


# Turns before the question, of which the first answer is not trained on.
BEFORE = [
    {"role": "user", "content": "May I ask?"},
    {"role": "assistant", "content": "No.", "weight": 0},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Yes."},
]


def write_rows(
    folder: Path, name: str, count: int, first: int = 0, before: Sequence[Any] = ()
) -> Path:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                *before,
                {"role": "user", "content": f"What colour has house {index}?"},
                {"role": "assistant", "content": COLOURS[index % 4], "weight": 1},
            ]
        }
        for index in range(first, first + count)
    ]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for(client: openai.OpenAI, id: str, *statuses: str) -> Any:
    deadline = time.monotonic() + 600
    while (job := client.fine_tuning.jobs.retrieve(id)).status not in statuses:
        assert time.monotonic() < deadline, job
        assert job.status not in ("failed", "succeeded", "cancelled"), job
        time.sleep(0.3)
    return job


def test_a_job_trains_pauses_goes_on_and_its_model_answers_at_once(
    service: Service, tmp_path: Path
) -> None:
    client = service.openai()
    rows = write_rows(tmp_path, "a.jsonl", 12, before=BEFORE)
    training = client.files.create(file=rows, purpose="fine-tune")
    # Rows of the validation file are not trained on, so it has others.
    other = write_rows(tmp_path, "b.jsonl", 4, first=12)
    checked = client.files.create(file=other, purpose="fine-tune")
    asked: dict[str, Any] = {
        "model": "tiny",
        "training_file": training.id,
        "validation_file": checked.id,
        "suffix": "Houses",
        "seed": 7,
        "metadata": {"team": "colours"},
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 2,
                    "batch_size": "auto",
                    "learning_rate_multiplier": 50,
                }
            },
        },
        "extra_headers": {"Idempotency-Key": "houses"},
    }
    job = client.fine_tuning.jobs.create(**asked)
    assert job.status in ("queued", "running")
    assert (job.fine_tuned_model, job.seed, job.metadata) == (None, 7, {"team": "colours"})
    assert client.fine_tuning.jobs.create(**asked).id == job.id
    client.fine_tuning.jobs.pause(job.id)
    wait_for(client, job.id, "paused")
    client.fine_tuning.jobs.resume(job.id)
    done = wait_for(client, job.id, "succeeded")
    id = job.id.removeprefix("ftjob-")
    assert done.fine_tuned_model == f"ft:tiny:houses:{id}"
    assert done.hyperparameters.n_epochs == 2
    assert done.hyperparameters.batch_size == 8
    assert done.trained_tokens > 0
    assert done.finished_at >= done.created_at
    turns: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What colour has house 1?"},
    ]
    told = {
        model: client.chat.completions.create(
            model=model, messages=turns, temperature=0, max_tokens=4, logprobs=True
        )
        for model in ("tiny", done.fine_tuned_model)
    }
    probabilities = [
        [token.logprob for token in answer.choices[0].logprobs.content or []]  # type: ignore[union-attr]
        for answer in told.values()
    ]
    assert probabilities[0] != probabilities[1]
    assert told[done.fine_tuned_model].model == done.fine_tuned_model
    assert done.fine_tuned_model in [model.id for model in client.models.list()]
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert checkpoint.step_number == 4  # twelve rows in batches of eight, twice
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert "step: training" in messages
    assert "step: evaluation" in messages
    assert messages[0].startswith("finished")
    view = service.client().get(f"/api/v1/runs/ft-houses-{id}").json()
    assert (view["labels"], view["round"], view["dead_letters"]) == (12, 1, [])
    with pytest.raises(openai.BadRequestError, match="has succeeded"):
        client.fine_tuning.jobs.cancel(job.id)


def test_a_job_is_cancelled_and_listed(service: Service, tmp_path: Path) -> None:
    client = service.openai()
    file = client.files.create(file=write_rows(tmp_path, "a.jsonl", 12), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    client.fine_tuning.jobs.cancel(job.id)
    wait_for(client, job.id, "cancelled")
    assert next(iter(client.fine_tuning.jobs.list())).id == job.id
    with pytest.raises(openai.BadRequestError, match="expected a paused one"):
        client.fine_tuning.jobs.resume(job.id)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model=f"ft:tiny::{job.id.removeprefix('ftjob-')}",
            messages=[{"role": "user", "content": "hi"}],
        )


def test_an_active_job_has_its_rows_labelled_by_people_and_its_model_answers(
    service: Service, tmp_path: Path
) -> None:
    client = service.openai()
    rows = [{"messages": row["messages"][:-1]} for row in read(write_rows(tmp_path, "a", 24))]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = client.files.create(file=pool, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        suffix="asked",
        method={  # type: ignore[arg-type]
            "type": "active",
            "active": {"budget": {"labels": 12}, "rounds": 2, "annotator": "staff"},
        },
    )
    run = f"ft-asked-{job.id.removeprefix('ftjob-')}"
    with service.client(service.annotator) as person:
        label(person, run, 2)
        shown = client.fine_tuning.jobs.retrieve(job.id)
        assert (shown.status, shown.active["state"]) == ("running", "waiting for people")  # type: ignore[attr-defined]
        client.fine_tuning.jobs.pause(job.id)
        wait_for(client, job.id, "paused")
        client.fine_tuning.jobs.resume(job.id)
        label(person, run, 10)
    done: Any = wait_for(client, job.id, "succeeded")
    assert done.fine_tuned_model == f"ft:tiny:asked:{job.id.removeprefix('ftjob-')}"
    active = done.active
    assert (active["labels"], active["audit_labels"], active["dollars"]) == (12, 8, 6.0)
    assert (active["round"], active["annotator"], active["strategy"]) == (2, "staff", "huds")
    score = active["score"]
    assert (score["measured_on"], score["count"], score["round"]) == ("audit", 8, 2)
    assert score["low"] <= score["mean"] <= score["high"]
    (labelled,) = done.result_files
    kept = client.files.content(labelled).text.splitlines()
    asked = [json.loads(line)["messages"] for line in kept]
    assert client.files.retrieve(labelled).bytes == len("\n".join(kept)) + 1
    assert all(turns[:-1] in [row["messages"] for row in rows] for turns in asked)
    assert {turns[-1]["role"] for turns in asked} == {"assistant"}
    assert len({json.dumps(turns) for turns in asked}) == 12
    events = {event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)}
    assert {"audit: waiting for people", "round 2: 2 examples were picked"} <= events
    assert {"round 1: 2 labels", "round 2: an adapter was trained"} <= events
    assert any(event.startswith("round 2: rougeL is ") for event in events)
    last, first = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert last.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert first.fine_tuned_model_checkpoint == f"tiny:{run}-1"
    for model in (done.fine_tuned_model, f"tiny:{run}-1"):
        answer = client.chat.completions.create(
            model=model, messages=rows[0]["messages"], max_tokens=2
        )
        assert answer.model == model
    with pytest.raises(openai.BadRequestError, match="deletion of the run"):
        client.files.delete(labelled)
