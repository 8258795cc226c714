"""Whole runs with annotating models: OpenAI's wire with a key that must be found nowhere, and a
local model.
"""

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.fakes.provider import FakeProvider, run_provider
from helpers.fakes.state import label_of
from helpers.projects import Project

from atgen_ray.annotation.llm.prompts import PromptWriter
from atgen_ray.annotation.providers import local
from atgen_ray.annotation.providers.base import RequestAttempt, Shard
from atgen_ray.annotation.request import PROBE, AnnotationRequest
from atgen_ray.config import ModelAnnotatorConfig, PromptConfig
from atgen_ray.engines.base import Engine
from atgen_ray.engines.registry import build_engine
from atgen_ray.store.run_folder import RunFolder

KEY = "sk-canary-3f1c9be27d"
SMALL = [
    "selection.strategy=random",
    "evaluation.zero_shot=false",
    "stopping.rounds=1",
    "data.test=null",
]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProvider]:
    with run_provider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


def annotated_by(**settings: Any) -> str:
    """The override that sets the annotator."""
    return f"annotator={json.dumps(settings)}"


def test_a_run_on_openais_wire_keeps_its_key_to_itself(
    make_project: Callable[[], Project], provider: FakeProvider
) -> None:
    project = make_project()
    provider.set(key=KEY)
    price = {"input": 100.0, "output": 100.0}
    openai = {
        "type": "openai",
        "model": "fake",
        "base_url": provider.openai,
        "recovery": "stored",
        "price": price,
    }
    arguments = ["run", "sort.yaml", *SMALL, "stopping.dollars=5", "--name", "paid"]
    batch = annotated_by(**openai, mode="batch", poll_seconds=0.2)

    refused = project.run(*arguments, batch, OPENAI_API_KEY="")
    assert refused.returncode == 2
    assert "OPENAI_API_KEY" in refused.stderr
    wrong = project.run(
        "run", "sort.yaml", *SMALL, batch, "--name", "wrong", OPENAI_API_KEY="sk-wrong-4e1d"
    )
    assert wrong.returncode == 2
    assert "does not accept the key" in wrong.stderr

    provider.set(stuck="in_progress")
    process = project.start(*arguments, batch, "--json", OPENAI_API_KEY=KEY)
    assert any('"step": "annotation"' in line for line in process.stdout or [])
    # It may have told all that it will ever tell of a batch that stands still.
    deadline = time.monotonic() + 120
    while not any(call.startswith("GET /v1/batches/") for call in provider.calls()):
        assert time.monotonic() < deadline, provider.calls()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "goes on at openai (detached)" in out
    shown = project.call("runs", "show", "paid")
    assert "(detached)" in shown.stdout
    assert "batch batch_" in shown.stdout
    assert "in_progress" in shown.stdout

    provider.set(stuck=None)
    done = project.run(*arguments, batch, OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    rows, bills = project.read("paid", "labeled.jsonl"), provider.bills()
    assert [row["text"] for row in rows] == [label_of(row["input"]) for row in rows]
    assert Counter(bill.example for bill in bills) == Counter(row["input"] for row in rows)
    provenance = rows[0]["provenance"]
    assert provenance["model"] == "fake"
    assert {"prompt_hash", "prompt_tokens", "output_tokens", "when"} <= provenance.keys()
    report = (project.folder / "atgen-runs/runs/paid/report.html").read_text()
    assert "Planned and actual" in report
    assert provenance["prompt_hash"][:8] in report
    latest = [
        Path(root, "session_latest").resolve()
        for root in ("/tmp/ray", f"/tmp/atgen-{os.getuid()}/ray")
        if Path(root, "session_latest").exists()
    ]
    assert latest
    for root in (project.folder, *latest):
        assert_absent(KEY.encode(), root)
    assert KEY not in done.stdout + done.stderr + out + err + shown.stdout + wrong.stderr


def test_a_run_with_a_local_model_as_annotator(
    ray_session: None, make_project: Callable[[], Project], tiny_model: str
) -> None:
    """Its weights are random, and none of its answers comes to an end: the run pauses."""
    project = make_project()
    model = {"id": tiny_model, "dtype": "float32", "max_prompt_tokens": 300}
    engine = {"backend": "transformers", "threads_per_worker": 1}
    settings = annotated_by(
        type="model", model=model, engine=engine, max_output_tokens=8, checks={"min_chars": 0}
    )
    done = project.call("run", "sort.yaml", *SMALL, settings, "--name", "local")
    assert done.returncode == 3
    assert "were cut off: raise the annotator's max_output_tokens" in done.stdout
    with sqlite3.connect(project.folder / "atgen-runs/atgen.db") as db:
        states = Counter(
            row[0] for row in db.execute("SELECT state FROM requests WHERE run = 'local'")
        )
        dead = db.execute(
            "SELECT count(*) FROM dead_letters WHERE run = 'local' AND step = 'annotation'"
        ).fetchone()[0]
    assert states == {"answered": 5}
    assert dead == 0


def test_one_engine_answers_all_questions_of_a_batch(
    ray_session: None, tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelAnnotatorConfig.model_validate(
        {
            "type": "model",
            "model": {"id": tiny_model, "dtype": "float32", "max_prompt_tokens": 300},
            "engine": {"backend": "transformers", "threads_per_worker": 1},
            "max_output_tokens": 4,
            "guidelines": "Sort it.",
        }
    )
    built = list[Engine]()

    def build(*settings: Any) -> Engine:
        built.append(build_engine(*settings))
        return built[-1]

    monkeypatch.setattr(local, "build_engine", build)
    writer = PromptWriter(config, PromptConfig())
    model = local.LocalModel(config, RunFolder(str(tmp_path), "r"), "parts", 0, lambda *_: None)
    questions = {
        "vote": (0, writer.write("a text")),
        "probe": (PROBE, writer.write_probe("a text")),
    }
    for name, (vote, prompt) in questions.items():
        attempt = RequestAttempt(name, AnnotationRequest("e", vote, 0, prompt), 0)
        (reply,) = model.create(Shard(name, (attempt,), 0.0)).replies or ()
        assert reply.body is not None, reply
    assert len(built) == 1
    model.close()
    attempt = RequestAttempt("later", AnnotationRequest("e", 1, 0, prompt), 0)
    assert model.create(Shard("later", (attempt,), 0.0)).replies
    assert len(built) == 2


def assert_absent(secret: bytes, root: Path) -> None:
    """No file below `root` holds the secret."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert secret not in path.read_bytes(), path
