"""A small sweep with real models on real Ray: killed, given again, and what it leaves."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command_line import call
from helpers.projects import Project

RUNS = [
    f"sorting-sort-{strategy}-s{seed}"
    for seed in (1, 2)
    for strategy in ("random", "facility-location")
]


def test_killed_and_given_again_it_ends_with_every_run_and_its_results(
    make_bench: Callable[[], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_bench()
    monkeypatch.chdir(project.folder)
    stop_early(project)
    process = project.start("bench", "suite.yaml", "--json")
    for line in process.stdout or []:
        if '"type": "run"' in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    listed = json.loads(call("runs", "list", "--json").out)
    first = next(row["name"] for row in listed if row["status"] == "finished")
    before = project.read(first, "metrics.json")

    done = project.run("bench", "suite.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert project.read(first, "metrics.json") == before
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ends = [event for event in events if event["type"] == "run"]
    assert first not in {event["name"] for event in ends}
    assert {event["status"] for event in ends} == {"finished"}
    assert ends[-1]["done"] == ends[-1]["total"] == 4
    check_results(project)
    check_sharing(project)
    check_repeat(project)


def test_nothing_is_entered_where_the_preflight_finds_a_mistake(
    make_bench: Callable[[], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(make_bench().folder)
    ended = call("bench", "suite.yaml", "run.training.backend=unsloth")
    assert ended.status == 2
    assert ended.err.startswith(
        "error: sort, tiny: training.backend is 'unsloth', which needs a GPU"
    )
    assert json.loads(call("runs", "list", "--json").out) == []


def stop_early(project: Project) -> None:
    process = project.start("bench", "suite.yaml", "--json")
    for line in process.stdout or []:
        if '"step": "pool"' in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    end = json.loads(out.splitlines()[-1])
    assert (end["status"], end["done"], end["results"]) == ("stopped", 0, None)


def check_results(project: Project) -> None:
    folder = project.folder / "atgen-runs/bench/sorting"
    results = json.loads((folder / "results.json").read_text())
    assert results["runs"] == results["expected"] == 4
    assert {curve["run"] for curve in results["curves"]} == {*RUNS}
    verdicts = {row["strategy"]: row["verdict"] for row in results["strategies"]}
    assert verdicts == {
        "random": "baseline",
        "facility_location": "no difference shown",
    }  # of two pairs nothing can be shown
    assert {row["measure"] for row in results["drift"]} == {
        "mmd",
        "length",
        "clusters",
        "vocabulary",
        "language",
    }
    assert all(row["last"]["count"] == 2 for row in results["drift"])
    for file in (
        "results.md",
        "strategies.csv",
        "drift.csv",
        "curves.svg",
        "curves.png",
        "differences.svg",
    ):
        assert (folder / file).stat().st_size > 100


def check_sharing(project: Project) -> None:
    """The untuned model answered each test question and each candidate once, whichever run
    asked.
    """
    shelves = project.folder / "atgen-runs/shared/runs"
    assert {path.name.partition("-")[0] for path in shelves.iterdir()} == {"embeddings", "outputs"}
    curves = json.loads((project.folder / "atgen-runs/bench/sorting/results.json").read_text())[
        "curves"
    ]
    zero_shot = [curve["scores"][0] for curve in curves]
    assert len(set(zero_shot)) == 1
    costs = [curve["seconds"][0]["evaluation"] for curve in curves]
    assert all(seconds > 0.1 for seconds in costs)  # shared, and counted all the same


def check_repeat(project: Project) -> None:
    """Results can be had again without Ray, and adapters are not kept."""
    shutil.rmtree(project.folder / "atgen-runs/bench")
    again = call("bench", "suite.yaml", "--only-results", "--output", "tables")
    assert again.status == 0, again.err
    assert (project.folder / "tables/results.md").is_file()
    assert not list(Path(project.folder, "atgen-runs").glob("runs/sorting-*/rounds/*/adapter"))
