"""Runs in progress, and runs with little or nothing to show."""

import shutil
from pathlib import Path

import pytest
from report_page import Page
from report_runs import MadeUp, write_run

from atgen_ray.reporting import collect_run, render_page, write_report
from atgen_ray.store.run_folder import RunFolder


def show(folder: RunFolder, output: Path) -> Page:
    path = write_report([collect_run(folder)], output / "report.html")
    return Page(path.read_text())


def test_an_empty_folder_is_a_run_about_to_begin(tmp_path: Path) -> None:
    page = show(RunFolder(str(tmp_path), "fresh"), tmp_path)
    assert "In progress" in page.text()
    assert "Nothing measured yet" in page.text()
    for section in ("curves", "rounds", "selection", "examples", "time", "config", "versions"):
        assert "Not yet" in page.text(f"A-{section}")


def test_every_moment_of_a_round_can_be_reported(tmp_path: Path) -> None:
    """A killed round leaves any first part of its files."""
    folder = write_run(str(tmp_path), "demo", MadeUp(rounds=2))
    folder.write_json("metrics.json", folder.read_json("metrics.json")[:2])
    for file in ("predictions.jsonl", "training.json", "annotations.jsonl", "features.parquet"):
        folder.remove(f"rounds/002/{file}")
        page = Page(render_page([collect_run(folder)]))
        assert "Round 2 4 picked by huds, still under way" in page.text("A-selection")
        assert "with 4 labels, $0.20" in page.text()
        assert "answer 1 to" in page.text("A-examples")
    assert "not yet" in page.text("A-selection")
    folder.remove("rounds/002/selection.parquet")
    assert "Round 2" not in show(folder, tmp_path).text("A-selection")
    folder.remove("rounds/001/predictions.jsonl")
    page = show(folder, tmp_path)
    assert "answer 0 to" in page.text("A-examples")
    assert "Best score" in page.text("A-examples")


def test_before_the_first_round_has_ended(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "demo", MadeUp(rounds=1))
    folder.remove("metrics.json")
    page = show(folder, tmp_path)
    assert "Not yet: the curve begins with the first evaluated round." in page.text("A-curves")
    assert "1 4 picked by huds, still under way" in page.text("A-selection")


def test_zero_shot_alone_has_zero_labels(tmp_path: Path) -> None:
    page = show(write_run(str(tmp_path), "demo", MadeUp(rounds=0)), tmp_path)
    assert "ROUGE-L 0.07 with 0 labels, $0.00 and 24 s." in page.text()
    assert "no labels yet" in page.text()
    assert "No dollars were counted." in page.text("A-curves")
    assert "Not yet: nothing has been selected." in page.text("A-selection")


def test_without_a_test_split_there_is_no_score_to_show(tmp_path: Path) -> None:
    page = show(write_run(str(tmp_path), "demo", MadeUp(test=0)), tmp_path)
    assert "12 labels" in page.text()
    assert "No test split was given, so there is no score to show." in page.text()
    assert "No metrics: the run has no test split." in page.text("A-curves")
    assert "3 12 $0.60" in page.text("A-rounds")


def test_without_embeddings_lengths_remain(tmp_path: Path) -> None:
    page = show(
        write_run(str(tmp_path), "demo", MadeUp(embeddings=False, strategy="random")), tmp_path
    )
    assert "Length of the inputs" in page.text("A-selection")
    assert "Where the picks lie" not in page.text("A-selection")
    assert "the baseline that other strategies must beat" in page.text("A-selection")


def test_what_is_not_finite_is_a_dash_and_no_point(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "demo", MadeUp())
    rows = folder.read_json("metrics.json")
    nan = float("nan")
    rows[1]["metrics"]["rougeL"] = {"mean": nan, "low": nan, "high": nan, "count": 12}
    rows[2]["metrics"]["rougeL"] |= {"low": None, "high": None}
    del rows[3]["metrics"]["exact_match"]
    rows[3]["dollars"] = 0.6
    folder.write_json("metrics.json", rows)
    losses = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": nan}]
    folder.write_json(
        "rounds/002/training.json", {"losses": losses, "examples": 8, "tokens": 9, "steps": 2}
    )
    predictions = folder.read_jsonl("rounds/003/predictions.jsonl")
    predictions[0]["scores"] = {"rougeL": None}
    predictions[1]["scores"] = {}
    folder.write_jsonl("rounds/003/predictions.jsonl", predictions)
    page = show(folder, tmp_path)
    assert "– – to –" in page.text("A-rounds")
    assert f"{rows[2]['metrics']['rougeL']['mean']:.3f} – to –" in page.text("A-rounds")
    assert "Scores of the same 10 test examples" in page.text()
    assert "nan" not in page.text().lower().replace("finance", "")


def test_an_unknown_strategy_has_a_general_explanation(tmp_path: Path) -> None:
    page = show(write_run(str(tmp_path), "demo", MadeUp(strategy="my_own", rounds=1)), tmp_path)
    assert (
        "Strategy 'my_own', which is not installed here, ranked the unlabelled examples"
        in page.text("A-selection")
    )
    assert "novelty A part of the score, as the strategy defines it." in page.text("A-selection")


def test_a_first_batch_is_explained_by_its_own_strategy(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "demo", MadeUp(rounds=2))
    text = folder.read_text("config.yaml").replace(
        "    strategy: null", "    strategy: facility_location"
    )
    folder.write_text("config.yaml", text)
    shown = show(folder, tmp_path).text("A-selection")
    assert "Round 1 4 picked by facility_location" in shown
    assert "Round 2 4 picked by huds" in shown


def test_many_rounds_are_thinned_and_said_to_be(tmp_path: Path) -> None:
    view = collect_run(write_run(str(tmp_path), "demo", MadeUp(rounds=24, pool=120, test=6)))
    shown = Page(render_page([view])).text("A-selection")
    assert "16 of 24 rounds are shown in full." in shown
    assert "Round 24 4 picked" in shown


def test_a_report_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "report.html")
    assert not [*tmp_path.iterdir()]


def test_an_object_store_is_read_like_a_disk(tmp_path: Path) -> None:
    local = write_run(str(tmp_path), "demo", MadeUp(rounds=1))
    remote = RunFolder("memory://report-test", "demo")
    for file in sorted(Path(local.root).rglob("*")):
        if file.is_file():
            remote.fs.pipe_file(f"{remote.root}/{file.relative_to(local.root)}", file.read_bytes())
    shutil.rmtree(local.root)
    assert collect_run(remote).labels == 4
    assert "Where the picks lie" in show(remote, tmp_path).text("A-selection")
