"""The preflight before a command: nothing is bought, no run is entered, and Ray is not started
where it need not be.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.command_line import call
from helpers.fakes.provider import FakeProvider, run_provider
from helpers.projects import Project, make_project_in


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProvider]:
    """A stand-in for the paid services."""
    with run_provider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a Ray that is started would leave its session."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(prefix="atgen-") as folder:  # short enough for Ray's sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def configure(project: Project, **sections: Any) -> str:
    """The project's configuration with some sections changed."""
    tree = yaml.safe_load((project.folder / "sort.yaml").read_text())
    file = project.folder / "changed.yaml"
    del tree["annotator"]
    file.write_text(
        yaml.safe_dump(tree | {key: tree.get(key, {}) | value for key, value in sections.items()})
    )
    return str(file)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_every_mistake_is_told_and_no_label_is_bought(
    command: str,
    provider: FakeProvider,
    ray_folder: Path,
    tiny_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    project = make_project_in(tmp_path, tiny_model)
    annotator = {"type": "openai", "model": "m", "base_url": provider.openai, "guidelines": "Sort."}
    file = configure(
        project,
        annotator=annotator | {"price": {"input": 1.0, "output": 1.0}},
        embedding={"model": "some/encoder"},
        training={"backend": "unsloth"},
        evaluation={"metrics": ["rougeL", "tool_calls", "bertscore"]},
    )
    ended = call(command, file)
    assert ended.status == 2
    begins = [
        "evaluation.metrics holds 'tool_calls'",
        "training.backend is 'unsloth', which needs a GPU",
        "training.backend is 'unsloth', which needs: pip install",
        "embedding.model is 'some/encoder'",
        "evaluation.models.bertscore.model is 'FacebookAI/roberta-large'",
    ]
    lines = ended.err.splitlines()
    assert [line[: len(f"error: {start}")] for line, start in zip(lines, begins, strict=True)] == [
        f"error: {start}" for start in begins
    ]
    assert provider.calls() == {}
    assert (
        json.loads(call("runs", "list", "--json").out) == []
    )  # so the same command goes, once it is mended
    assert list(ray_folder.iterdir()) == []


def test_a_plan_of_small_files_and_a_finished_run_need_no_ray(
    finished: Project, ray_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = finished.copy(tmp_path)
    monkeypatch.chdir(project.folder)
    with (project.folder / "pool.jsonl").open("a") as file:
        file.write('{"task": {"words": ""}}\nno JSON\n')
    ended = call("plan", "sort.yaml", "data.test=null")
    assert ended.status == 0, ended.err
    assert "dead letter row-40: pool.jsonl line 41: 'task.words' is empty" in ended.out
    assert "dead letter row-41: pool.jsonl line 42: is not valid JSON" in ended.out
    assert (
        "note: data.test is null and evaluation.dev_fraction is 0: nothing will be evaluated"
        in ended.out
    )
    events = len(json.loads(call("runs", "show", "sort", "--json").out)["events"])
    again = call("run", "sort.yaml", "--json")
    assert again.status == 0, again.err
    assert json.loads(again.out.splitlines()[-1])["status"] == "finished"
    assert len(json.loads(call("runs", "show", "sort", "--json").out)["events"]) == events
    changed = call("run", "sort.yaml", "seed=1")
    assert changed.status == 2
    assert "exists with seed = 42, now it is 1" in changed.err
    assert list(ray_folder.iterdir()) == []


def test_a_file_name_that_is_wrong_is_told_with_the_nearest(
    ray_folder: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = make_project_in(tmp_path, tiny_model)
    ended = call("plan", configure(project, data={"pool": "pol.jsonl"}))
    assert ended.status == 2
    assert (
        ended.err == "error: data.pool is 'pol.jsonl', expected an existing file; did you mean "
        "'pool.jsonl'?\n"
    )
    assert not list(ray_folder.iterdir())
