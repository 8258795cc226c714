"""A whole run from the command line: what it leaves behind, and what happens when it is given
again.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
from helpers.older_journal import age_journal
from helpers.process_names import read_command
from helpers.projects import Project

from atgen_ray.core.records import POOL_SCHEMA


def test_a_run_leaves_what_it_promises(finished: Project) -> None:
    root = finished.folder / "atgen-runs/runs/sort"
    for file in (
        "config.yaml",
        "versions.json",
        "pool.parquet",
        "gold.parquet",
        "report.html",
        "learning_curve.png",
    ):
        assert (root / file).is_file(), file
    for round in ("001", "002"):
        files = {path.name for path in (root / "rounds" / round).iterdir()}
        expected = {
            "features.parquet",
            "selection.parquet",
            "annotations.jsonl",
            "adapter",
            "training.json",
        }
        assert files == expected | {"predictions.jsonl", "metrics.json"}
        adapter = {path.name for path in (root / "rounds" / round / "adapter").iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= adapter
    assert (finished.folder / "atgen-runs/atgen.db").is_file()


def test_the_curve_counts_labels_dollars_and_seconds(finished: Project) -> None:
    rows = finished.read("sort", "metrics.json")
    assert [(row["round"], row["labels"], row["dollars"]) for row in rows] == [
        (0, 0, 0),
        (1, 5, 2.5),
        (2, 10, 5.0),
    ]
    for row in rows:
        assert set(row["metrics"]) == {"rouge1", "rouge2", "rougeL", "exact_match", "token_f1"}
        assert all(value["count"] == 6 for value in row["metrics"].values())
        assert row["seconds"]["evaluation"] > 0


def test_each_label_is_a_known_answer_of_what_was_picked(finished: Project) -> None:
    gold = {row["id"]: row["references"] for row in finished.read("sort", "gold.parquet")}
    labeled = finished.read("sort", "labeled.jsonl")
    picked = [
        row["id"]
        for at in ("001", "002")
        for row in finished.read("sort", f"rounds/{at}/selection.parquet")
    ]
    assert [row["id"] for row in labeled] == picked
    assert len(set(picked)) == 10
    assert all(row["text"] == gold[row["id"]][0] for row in labeled)


def test_answers_are_nowhere_that_strategies_or_engines_look(finished: Project) -> None:
    pool = finished.read("sort", "pool.parquet")
    answers = {row["id"]: row["references"] for row in finished.read("sort", "gold.parquet")}
    assert list(pool[0]) == POOL_SCHEMA.names
    for row in pool:
        assert not any(
            answer in str(value) for value in row.values() for answer in answers[row["id"]]
        )


def test_the_next_round_is_asked_of_the_new_adapter(finished: Project) -> None:
    first, second = (
        finished.read("sort", f"rounds/{at}/features.parquet") for at in ("001", "002")
    )
    before = {row["id"]: row["logprobs"] for row in first}
    assert len(first) == 40
    assert len(second) == 35
    assert all(row["logprobs"] != before[row["id"]] for row in second)


def test_the_same_command_again_finds_it_finished(finished: Project) -> None:
    before = finished.read("sort", "metrics.json")
    again = finished.run("run", "sort.yaml")
    assert again.returncode == 0
    assert "all rounds done" in again.stdout
    assert finished.read("sort", "metrics.json") == before


def test_another_configuration_under_the_same_name_is_refused(finished: Project) -> None:
    refused = finished.run("run", "sort.yaml", "selection.count=6")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "selection.count = 5, now it is 6" in refused.stderr


def test_interrupted_then_more_rounds_than_at_first(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    process = project.start("run", "sort.yaml", "stopping.rounds=3", "--json")
    assert process.stdout is not None
    assert '"step": "preflight"' in process.stdout.readline()
    for line in process.stdout:
        if '"round": 3' in line and '"step": "generation"' in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert '"status": "stopped"' in out
    assert "stopped" in project.call("runs", "show", "sort").stdout
    done = project.run("run", "sort.yaml", "stopping.rounds=3", "stopping.labels=13")
    assert done.returncode == 0, done.stderr
    assert [row["labels"] for row in project.read("sort", "metrics.json")] == [0, 5, 10, 13]


def test_a_run_killed_under_an_older_release_is_finished_by_this_one(
    finished: Project, tmp_path: Path
) -> None:
    """In the middle of its third round, in tables of two releases ago, without digests of files."""
    project = finished.copy(tmp_path)
    process = project.start("run", "sort.yaml", "stopping.rounds=3", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if '"step": "generation"' in line:
            break
    process.kill()
    process.communicate(timeout=120)
    age_journal(project.folder / "atgen-runs/atgen.db", "0004")
    bought = project.read("sort", "labeled.jsonl")
    done = project.run("run", "sort.yaml", "stopping.rounds=3")
    assert done.returncode == 0, done.stderr
    assert [row["labels"] for row in project.read("sort", "metrics.json")] == [0, 5, 10, 15]
    labels = project.read("sort", "labeled.jsonl")
    assert labels[: len(bought)] == bought
    assert len({row["id"] for row in labels}) == 15
    assert project.call("doctor", "sort").returncode == 0


def test_a_second_controller_is_refused_and_a_stop_request_heard(
    make_project: Callable[[], Project],
) -> None:
    """And the Ray of a run has no process that only others need."""
    project = make_project()
    long = (
        "run",
        "sort.yaml",
        "selection.count=1",
        "stopping.rounds=40",
    )  # not over before it is asked to stop
    first = project.start(*long, "--json")
    for line in first.stdout or []:
        if '"step": "embedding"' in line:
            break
    children = psutil.Process(first.pid).children()
    started = {word for each in children for word in read_command(each)}
    assert any(word.endswith("/raylet") for word in started)
    # What serves an autoscaler, a dashboard and a driver that prints the logs of workers.
    needless = ("/monitor.py", "/dashboard.py", "/log_monitor.py")
    assert not [word for word in started if word.endswith(needless)]
    second = project.start(*long)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 2
    assert "is driven by process" in err
    assert "asked to stop" in project.call("runs", "stop", "sort").stdout
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 3
    assert '"status": "stopped"' in out
