"""An adapter that a run goes on from: where it is, and what contradicts the run's training."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import quiet

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.models.start_adapter import find_adapter, find_adapter_mistakes
from atgen_ray.preflight import Setting, run_checks
from atgen_ray.preflight.checkpoints import check_start_adapter
from atgen_ray.runs.controller import Controller
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

SAID = "model.adapter is 'here'"
SETTINGS = {
    "peft_type": "LORA",
    "base_model_name_or_path": "maker/model",
    "r": 16,
    "lora_alpha": 32,
    "target_modules": ["q_proj", "v_proj"],
}


def configure(folder: Path, adapter: Any = None, name: str = "task", **more: Any) -> RunConfig:
    model = {"id": "maker/model", "adapter": None if adapter is None else str(adapter)}
    tree = {"name": name, "storage": str(folder), "model": model | more.pop("model", {})}
    return parse_config(tree | {"data": {"pool": "p.jsonl", "references": "a"}} | more)


def write(folder: Path, weights: str = "adapter_model.safetensors", **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS | settings))
    (folder / weights).write_bytes(b"weights")
    return folder


def train(journal: Journal, config: RunConfig, round: int) -> None:
    """An adapter of a run, and its entry in the journal."""
    journal.create_run(config.name, dump_config(config), "")
    lease = journal.acquire(config.name, ProcessIdentity("them"), 60)
    with RunFolder(config.storage, config.name).publish(f"rounds/{round:03d}/adapter") as output:
        write(output)
    journal.append(lease, "step", round, "training")
    lease.release()


def test_an_adapter_is_found_in_a_folder_and_in_a_run(tmp_path: Path) -> None:
    journal = open_journal(str(tmp_path))
    train(journal, configure(tmp_path, name="demo"), 2)
    config = configure(tmp_path)
    made = tmp_path / "runs/demo/rounds/002/adapter"
    for named in ("demo", "demo:2"):
        assert find_adapter(named, SAID, config, journal).local() == made
    alone = write(tmp_path / "alone")
    assert find_adapter(str(alone), SAID, config, journal).local() == alone
    for named, line in {
        "demo:1": r"expected a trained round of run 'demo' \(2\)",
        "dema": r"expected a run, RUN:ROUND or the folder of an adapter.*did you mean 'demo'",
        str(tmp_path): "or the folder of an adapter",
        "s3x://bucket/adapter": "cannot be opened",
    }.items():
        with pytest.raises(UserError, match=line) as wrong:
            find_adapter(named, f"model.adapter is '{named}'", config, journal)
        assert str(wrong.value).startswith("model.adapter is ")
    other = configure(tmp_path, model={"id": "another/model"})
    with pytest.raises(UserError, match=r"whose model.id is 'maker/model', expected 'another"):
        find_adapter("demo", SAID, other, journal)


@pytest.mark.parametrize(
    ("settings", "training", "line"),
    [
        ({}, {}, None),
        ({}, {"method": "qlora"}, None),
        ({}, {"target_modules": ["v_proj", "q_proj"]}, None),
        ({"use_dora": True}, {"method": "dora"}, None),
        ({"base_model_name_or_path": "/elsewhere/model"}, {}, None),
        ({"r": 8}, {}, f"training.rank is 16, but {SAID}, which has 8: expected training.rank=8"),
        ({"lora_alpha": 16}, {}, f"training.alpha is 32, but {SAID}, which has 16: "
         "expected training.alpha=16"),
        ({"use_rslora": True}, {}, f"training.method is 'lora', but {SAID}, which was trained by "
         "'rslora': expected training.method=rslora"),
        ({}, {"target_modules": ["k_proj"]}, f"training.target_modules is k_proj, but {SAID}, "
         "which adapts q_proj, v_proj: expected these"),
        ({"rank_pattern": {"q_proj": 4}}, {}, f"{SAID}, whose rank_pattern differs by module, "
         "expected one rank and alpha"),
        ({"peft_type": "PROMPT_TUNING"}, {}, f"{SAID}, which is of the type 'PROMPT_TUNING', "
         "expected a LoRA adapter"),
        ({"base_model_name_or_path": "other/model"}, {}, f"{SAID}, whose base model is "
         "'other/model', expected 'maker/model' (model.id)"),
    ],
)  # fmt: skip
def test_what_training_could_not_go_on_from_is_one_line(
    settings: dict[str, Any], training: dict[str, Any], line: str | None, tmp_path: Path
) -> None:
    config = configure(tmp_path, training=training)
    found = [*find_adapter_mistakes(write(tmp_path / "here", **settings), SAID, config)]
    assert found == ([] if line is None else [line])


def test_the_preflight_names_what_is_missing_or_wrong(tmp_path: Path) -> None:
    folder = write(tmp_path / "here", weights="adapter_model.bin")
    said = f"model.adapter is '{folder}'"

    def look() -> list[str]:
        return run_checks([check_start_adapter], Setting(configure(tmp_path, folder)))

    assert look() == [f"{said}, expected a folder with adapter_model.safetensors"]
    write(folder, r=4)
    [line] = look()
    assert line.startswith("training.rank is 16")
    (folder / "adapter_config.json").write_text("[]")
    [line] = look()
    assert line.startswith(f"{said}, whose adapter_config.json cannot be read")
    assert run_checks([check_start_adapter], Setting(configure(tmp_path))) == []


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"training": {"method": "full"}}, "model.adapter is given, but training.method is 'full'"),
        ({"model": {"host": "serve"}}, "expected model.host=batch beside it"),
    ],
)
def test_settings_that_contradict_an_adapter_are_one_line(
    more: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        configure(tmp_path, "demo", **more)


def test_the_run_has_a_copy_with_its_digests_and_goes_on_from_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "here")
    (folder / "optimizer.pt").write_bytes(b"a pickle")
    config = configure(tmp_path, folder)
    journal = open_journal(str(tmp_path))
    journal.create_run("task", dump_config(config), "")
    lease = journal.acquire("task", ProcessIdentity("us"), 60)
    run = RunFolder(str(tmp_path), "task")
    controller = Controller(config, journal, lease, run, ProgressTracker(), quiet)
    assert controller._run.state.adapter(0) is None  # nothing but the journal says what exists
    controller.adapters.copy_start()
    copied = tmp_path / "runs/task/rounds/000/adapter"
    assert {path.name for path in copied.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    assert not (copied / "optimizer.pt").exists()
    [event] = journal.steps("task")
    assert event.payload["source"] == str(folder)
    assert "rounds/000/adapter/adapter_model.safetensors" in json.dumps(event.payload)
    state = controller._run.state
    for found in (state.adapter(0), state.adapter(3), state.start_adapter):
        assert found is not None
        assert found.local() == copied
    # What is there afterwards is the run's own.
    write(folder, r=8)
    (folder / "adapter_model.safetensors").unlink()
    controller.adapters.copy_start()
    assert len(journal.steps("task")) == 1
    with run.publish("rounds/001/adapter") as output:
        write(output)
    journal.append(lease, "step", 1, "training")
    newest = state.adapter(1)
    assert newest is not None
    assert newest.local() == tmp_path / "runs/task/rounds/001/adapter"
