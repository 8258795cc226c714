"""Packages, keys and GPUs that a run would miss."""

from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import SMALLEST

from atgen_ray.config.loading import parse_config
from atgen_ray.preflight import Setting, run_checks
from atgen_ray.preflight.packages import (
    check_annotators,
    check_engines,
    check_service,
    check_trackers,
    check_training,
)

NO_GPU = "which needs a GPU for every worker; there is none here"
OPENAI = {"type": "openai", "model": "gpt-5-mini", "guidelines": "Sort."}

LOCAL = {"base_url": "http://127.0.0.1:9", "price": {"input": 1.0, "output": 1.0}}


def look(check: Any, gpus: float = 0.0, goal: Any = "run", **sections: Any) -> list[str]:
    """The lines of one check of the smallest configuration with some sections of its own."""
    return run_checks([check], Setting(parse_config(SMALLEST | sections), goal, gpus))


def test_everything_that_training_lacks_is_told_at_once() -> None:
    training = {"method": "qlora", "backend": "unsloth", "trackers": ["tensorboard"]}
    assert look(check_training, training=training) == [
        f"training.backend is 'unsloth', {NO_GPU}: set training.backend=transformers",
        "training.backend is 'unsloth', which needs: pip install 'atgen-ray[unsloth]'",
    ]
    assert look(check_training, goal="select", training=training) == []  # nothing is trained


def test_trackers_know_where_they_send_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    training = {"trackers": ["mlflow", "wandb", "tensorboard"]}
    mlflow, wandb = look(check_trackers, training=training)
    assert mlflow.startswith(
        "training.trackers holds 'mlflow', which finds no server: set MLFLOW_TRACKING_URI, as"
    )
    assert wandb.startswith("training.trackers holds 'wandb', which finds no account")
    assert look(check_trackers, goal="select", training=training) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert look(check_trackers, training=training) == []


@pytest.mark.parametrize(("workers", "share"), [(1, 2.0), (2, 2.0), (2, 0.5)])
def test_a_worker_computes_on_one_gpu_of_its_own(workers: int, share: float) -> None:
    training = {"workers": workers, "gpus_per_worker": share}
    (line,) = look(check_training, gpus=4, training=training)
    assert line.startswith(
        f"training.gpus_per_worker is {share:g}, expected 1 for training.workers={workers}"
    )
    assert look(check_training, gpus=4, training={"workers": 1, "gpus_per_worker": 0.5}) == []


def test_gpus_count_for_all_workers() -> None:
    fsdp = {"method": "full", "sharding": "fsdp", "workers": 2}
    assert look(check_training, gpus=2, training=fsdp) == []
    assert look(check_training, gpus=1, training=fsdp) == []  # then on CPUs
    (line,) = look(check_training, gpus=1, training={"workers": 2, "use_gpu": True})
    assert "need 2 GPUs, but workers can have 1 GPUs" in line
    assert look(check_training, gpus=1, training={"workers": 2}) == []  # then on CPUs


def test_engines_that_are_not_installed_or_not_placed() -> None:
    (line,) = look(
        check_engines,
        gpus=1,
        engine={"backend": "transformers", "workers": 3, "gpus_per_worker": 0.5},
    )
    assert line.startswith(
        "engine.gpus_per_worker is 0.5, which engine.workers=3 make 1.5 GPUs, but workers can "
        "have 1 GPUs"
    )
    annotator = {
        "type": "model",
        "model": {"id": "some/model"},
        "guidelines": "Sort.",
        "engine": {"gpus_per_worker": 1},
    }
    (line,) = look(check_engines, annotator=annotator)
    assert line.startswith("annotator.engine.gpus_per_worker is 1")


def test_keys_of_providers_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = {
        "type": "anthropic",
        "model": "claude-haiku-4-5",
        "guidelines": "Grade.",
        "api_key_file": "/no/such/key",
    }
    lines = look(
        check_annotators, annotator=OPENAI, evaluation={"metrics": ["llm_judge"], "judge": judge}
    )
    assert lines[0].startswith("OPENAI_API_KEY is not set")
    assert lines[1].startswith(
        "evaluation.judge.api_key_file is '/no/such/key', which cannot be read"
    )
    assert look(check_annotators, annotator=OPENAI | LOCAL) == []


def test_replicas_need_a_service(ray_session: None) -> None:
    assert look(check_service) == []
    (line,) = look(check_service, model={"id": "some/model", "host": "serve"})
    assert line.startswith(
        "model.host is 'serve', but this Ray cluster runs no service with a model"
    )
