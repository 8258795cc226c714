"""`open_run`, `list_runs`, `compare` and `report`: what Python sees of runs that are there."""

import json
import os
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from helpers.command_line import call
from helpers.projects import Project

import atgen_ray
from atgen_ray.core.records import Annotation
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)


@pytest.fixture
def run(finished: Project) -> atgen_ray.Run:
    """The finished run `sort`, which nobody may change."""
    return atgen_ray.open_run("sort", storage=finished.folder / "atgen-runs")


def begin(name: str = "haiku") -> Journal:
    """A run in the default storage that a controller of this process has begun."""
    journal = open_journal("./atgen-runs")
    journal.create_run(name, {"name": name}, "")
    lease = journal.acquire(name, ProcessIdentity("controller", pid=os.getpid()), 60)
    journal.set_status(lease, "running")
    return journal


# ---- what a finished run holds


def test_a_finished_run_says_how_it_stands(run: atgen_ray.Run) -> None:
    assert (run.name, run.status, run.message) == ("sort", "finished", "all rounds done")
    assert repr(run) == f"Run('sort', storage={run.storage!r})"
    assert run.config.selection.strategy == "huds"
    assert run.config.storage == run.storage
    assert run.show()["labels"] == 10
    kinds = [(event.kind, event.round, event.step) for event in run.events()]
    assert kinds[0] == ("step", 0, "pool")
    assert kinds[-1][0] == "finished"
    assert [event.sequence for event in run.events(after=3)] == list(range(4, len(kinds) + 1))


def test_labels_are_a_frame_and_a_dataset(run: atgen_ray.Run, finished: Project) -> None:
    labels = run.labels()
    columns = ["id", "input", "text", "annotator", "dollars", "round", "run"]
    assert list(labels.columns) == columns
    written = finished.read("sort", "labeled.jsonl")
    assert labels["id"].tolist() == [row["id"] for row in written]
    assert labels["text"].tolist() == [row["text"] for row in written]
    assert labels["dollars"].sum() == 5.0
    assert labels["round"].tolist() == [1] * 5 + [2] * 5
    dataset = run.dataset()
    assert isinstance(dataset, datasets.Dataset)
    assert dataset.column_names == columns
    assert dataset["id"][:] == labels["id"].tolist()


def test_picks_have_the_parts_of_their_scores(run: atgen_ray.Run, finished: Project) -> None:
    picks = run.picks()
    assert list(picks.columns)[:6] == ["round", "rank", "id", "row", "input", "score"]
    assert {"part_nll", "part_diversity"} <= set(picks.columns)
    assert picks["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    second = finished.read("sort", "rounds/002/selection.parquet")
    assert run.picks(2)["id"].tolist() == [row["id"] for row in second]
    assert picks["id"].tolist() == run.labels()["id"].tolist()
    assert run.picks(9).empty


def test_the_curve_has_a_row_a_round_with_intervals(run: atgen_ray.Run, finished: Project) -> None:
    curve = run.curve()
    assert curve["round"].tolist() == [0, 1, 2]
    assert curve["labels"].tolist() == [0, 5, 10]
    assert curve["dollars"].tolist() == [0, 2.5, 5.0]
    rows = finished.read("sort", "metrics.json")
    assert curve["rougeL"].tolist() == [row["metrics"]["rougeL"]["mean"] for row in rows]
    assert (curve["rougeL_low"] <= curve["rougeL"]).all()
    assert (curve["rougeL"] <= curve["rougeL_high"]).all()
    assert (curve["seconds"] > 0).all()


def test_predictions_and_features_of_a_round(run: atgen_ray.Run, finished: Project) -> None:
    last, untuned = run.predictions(), run.predictions(0)
    assert last.equals(run.predictions(2))
    assert len(untuned) == len(last) == 6
    assert list(last.columns)[:5] == ["id", "split", "input", "prediction", "references"]
    assert last["input"].str.startswith("Sort: ").all()
    mean = finished.read("sort", "metrics.json")[-1]["metrics"]["rougeL"]["mean"]
    assert last["rougeL"].mean() == pytest.approx(mean)
    features = run.features(2)
    assert isinstance(features, pa.Table)
    assert features.num_rows == 35  # the candidates: forty less those with a label
    assert set(run.picks(2)["id"]) <= set(features["id"].to_pylist())


def test_the_adapter_is_a_folder_of_peft(run: atgen_ray.Run) -> None:
    assert (run.adapter() / "adapter_config.json").is_file()
    assert run.adapter() == run.adapter(2)
    assert run.adapter(1) != run.adapter(2)


def test_a_finished_run_has_its_report(run: atgen_ray.Run, tmp_path: Path) -> None:
    page = run.report()
    assert page == Path(run.storage).resolve() / "runs/sort/report.html"
    assert not list(tmp_path.iterdir())
    own = run.report(tmp_path / "own.html")
    assert own == tmp_path / "own.html"
    assert "<h1" in own.read_text()
    assert atgen_ray.report(run, tmp_path / "again.html").read_text() == own.read_text()


def test_labels_are_exported_as_the_command_line_does(run: atgen_ray.Run, tmp_path: Path) -> None:
    count, path = run.export(format="csv")
    assert (count, path) == (10, Path("sort.csv"))
    call(
        "runs", "export", "sort", "--format", "csv", "--output", "cli.csv", "--storage", run.storage
    )
    assert path.read_bytes() == Path("cli.csv").read_bytes()
    assert pd.read_csv(path)["id"].tolist() == run.labels()["id"].tolist()


def test_a_run_is_shown_in_a_notebook_with_everything_escaped(run: atgen_ray.Run) -> None:
    page = run._repr_html_()
    assert "<caption>run sort</caption>" in page
    assert "finished: all rounds done" in page
    assert "rougeL" in page
    shown = atgen_ray.Run("sort", ("<img src=x>", None))
    assert "<img" not in atgen_ray.Plan({"<img>": "<b>", "problems": ["<i>"]})._repr_html_()
    with pytest.raises(atgen_ray.UserError):
        shown._repr_html_()


def test_a_message_with_markup_is_escaped() -> None:
    journal = open_journal("./atgen-runs")
    journal.create_run("haiku", {"name": "haiku"}, "")
    lease = journal.acquire("haiku", ProcessIdentity("controller", pid=os.getpid()), 60)
    journal.append(lease, "failed", payload={"message": "<script>alert(1)</script>"})
    journal.set_status(lease, "failed")
    page = atgen_ray.open_run("haiku")._repr_html_()
    assert "<script" not in page
    assert "failed: &lt;script&gt;" in page
    journal.close()


# ---- runs under way


def test_a_run_that_has_just_begun_has_empty_tables() -> None:
    journal = begin()
    run = atgen_ray.open_run("haiku")
    assert (run.status, run.message) == ("running", "")
    tables = [run.labels(), run.picks(), run.curve()]
    assert [len(table) for table in tables] == [0, 0, 0]
    assert list(tables[0].columns)[:3] == ["id", "input", "text"]
    assert list(tables[1].columns) == ["round", "rank", "id", "row", "input", "score"]
    assert list(tables[2].columns) == ["round", "labels", "dollars", "seconds"]
    assert len(run.dataset()) == 0
    for ask, line in (
        (run.predictions, "round 0 of run 'haiku' has not been evaluated; no round has by now"),
        (run.adapter, "round 0 of run 'haiku' has no adapter; no round has by now"),
        (lambda: run.features(1), "round 1 of run 'haiku' has no outputs of the model; no round"),
    ):
        with pytest.raises(atgen_ray.UserError, match=line):
            ask()
    journal.close()


def test_stopping_asks_the_controller_that_there_is() -> None:
    journal = begin()
    said = atgen_ray.open_run("haiku").stop()
    assert said == call("runs", "stop", "haiku").out.strip()
    assert said.startswith("run 'haiku' was asked to stop")
    journal.close()


def test_all_runs_are_listed_as_the_command_line_lists_them() -> None:
    assert atgen_ray.list_runs() == []
    journal = begin()
    rows = atgen_ray.list_runs()
    assert [(row["name"], row["status"], row["labels"]) for row in rows] == [
        ("haiku", "running", 0)
    ]
    assert json.loads(call("runs", "list", "--json").out) == rows
    journal.close()


def test_the_journal_may_be_at_a_url_of_its_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'own.db'}"
    journal = Journal(url)
    journal.create_run("elsewhere", {"name": "elsewhere"}, "")
    run = atgen_ray.open_run("elsewhere", database_url=url)
    assert (run.status, run.name) == ("created", "elsewhere")
    assert [row["name"] for row in atgen_ray.list_runs(database_url=url)] == ["elsewhere"]
    journal.close()


def test_a_label_that_is_no_text_of_utf_8_reaches_the_frame() -> None:
    journal = open_journal("./atgen-runs")
    journal.create_run("haiku", {"name": "haiku"}, "")
    lease = journal.acquire("haiku", ProcessIdentity("controller", pid=os.getpid()), 60)
    from atgen_ray.core.records import POOL_SCHEMA

    row = {"id": "e1", "row": 0, "text": "x", "content": "x"}
    folder = RunFolder("./atgen-runs", "haiku")
    folder.write_table("pool.parquet", pa.Table.from_pylist([row], POOL_SCHEMA))
    journal.record_annotations(lease, 1, [Annotation("e1", "a\ud800b", "anna")])
    assert atgen_ray.open_run("haiku").labels()["text"].tolist() == ["a\\ud800b"]
    journal.close()


# ---- several runs


def test_runs_are_compared_by_pairs(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "copy")
    storage = project.folder / "atgen-runs"
    run = atgen_ray.open_run("sort", storage=storage)
    found = atgen_ray.compare([run, "sort"])
    assert (found.names, found.metric) == (["sort", "sort"], "rougeL")
    assert found.differing == {}
    row = found.differences().iloc[0].to_dict()
    assert (row["first"], row["second"], row["difference"]) == ("sort", "sort", 0.0)
    assert row["count"] == 6
    assert "<caption>comparison</caption>" in found._repr_html_()
    page = atgen_ray.report([run, run], "both.html")
    assert page == Path("both.html")
    assert page.is_file()
