"""Whole runs whose money ends: what is paid is trained on, and every repeat says the same."""

import json
from collections.abc import Callable
from pathlib import Path

from helpers.fakes.provider import run_provider
from helpers.hooks import Hook, listen
from helpers.projects import Project

SMALL = [
    "selection.strategy=random",
    "evaluation.zero_shot=false",
    "data.test=null",
    "stopping.rounds=3",
]


def test_a_run_whose_budget_is_spent_ends_and_one_that_buys_nothing_says_so(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    arguments = ["run", "sort.yaml", *SMALL, "--name", "spent"]
    poor = project.call(*arguments, "stopping.dollars=0.3")
    assert poor.returncode == 2, poor.stderr
    assert (
        "error: stopping.dollars is 0.3, expected at least 0.5, which one label can cost\n"
        in poor.stderr
    )
    assert "Traceback" not in poor.stderr

    with listen(Hook) as (port, heard):
        # The price of the first round, to the last cent.
        first = [*arguments, "stopping.dollars=2.5", f"notify.webhook=http://127.0.0.1:{port}/"]
        runs = [project.call(*first) for _ in range(2)]
    ((_, told),) = heard  # what has ended is not told again
    assert (told["type"], told["labels"], told["dollars"]) == ("run.budget", 5, 2.5)
    assert told["text"] == "Run spent ended: budget spent (5 labels, 2.50 dollars)"
    for done in runs:
        assert done.returncode == 0, done.stderr
        assert "finished: budget spent" in done.stdout
        assert len(project.read("spent", "labeled.jsonl")) == 5
        assert [row["labels"] for row in project.read("spent", "metrics.json")] == [5]

    richer = project.call(*arguments, "stopping.dollars=4")
    assert richer.returncode == 0, richer.stderr
    assert "finished: budget spent" in richer.stdout
    assert [row["labels"] for row in project.read("spent", "metrics.json")] == [5, 8]
    assert "budget spent" in (project.folder / "atgen-runs/runs/spent/report.html").read_text()


def test_a_run_without_a_single_label_says_why(
    make_project: Callable[[], Project], tmp_path: Path
) -> None:
    project = make_project()
    with run_provider(tmp_path) as provider:
        annotator = {
            "type": "openai",
            "model": "fake",
            "base_url": provider.openai,
            "repair": False,
        }
        annotator |= {"price": {"input": 1.0, "output": 1.0}, "checks": {"regex": "never"}}
        settings = [
            *SMALL[:-1],
            "stopping.rounds=1",
            "stopping.dead_letters=null",
            f"annotator={json.dumps(annotator)}",
            "--name",
            "none",
        ]
        with listen(Hook) as (port, heard):
            settings.append(f"notify.webhook=http://127.0.0.1:{port}/")
            done = project.run("run", "sort.yaml", *settings, OPENAI_API_KEY="sk-test")
    ((_, told),) = heard
    assert told["type"] == "run.failed"
    assert "got none, the first: " in told["reason"]
    assert done.returncode == 2, done.stderr
    assert (
        "error: the run ends without a label (all rounds done). 5 examples got none, the first: "
        in done.stderr
    )
    assert "Traceback" not in done.stderr
