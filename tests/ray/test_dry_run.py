"""The dry run against the run that it foretells."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from projects import Project

from atgen_ray.store.journal import open_journal


def test_a_run_does_what_its_plan_says(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    done = project.run("plan", "sort.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert "Dataset" not in done.stderr  # no reports of Ray Data
    assert "rogress bars" not in done.stderr
    plan = json.loads(done.stdout)
    journal = open_journal(str(tmp_path / "atgen-runs"))
    rows: Counter[str] = Counter()
    for event in journal.events("sort"):
        if event.kind == "step":
            rows[str(event.step)] += event.payload["rows"]
    assert plan["rounds"] == 2
    assert plan["labels"] == len(journal.annotations("sort"))
    assert plan["dollars"] == journal.dollars("sort")
    assert plan["generated_rows"] == rows["generation"] + rows["evaluation"]
    assert plan["output_tokens_at_most"] == 8 * plan["generated_rows"]
    assert plan["optimizer_steps"] == rows["training"]
    assert plan["device_minutes"] is not None  # the journal knows how quick this model is
    assert plan["test_rows"] == len(project.read("sort", "test.parquet"))
    pool = project.read("sort", "pool.parquet")
    assert plan["pool_rows"] == len(pool)
    assert plan["near_duplicates"] == sum(row["duplicate_of"] is not None for row in pool)
    features = [
        row
        for at in ("001", "002")
        for row in project.read("sort", f"rounds/{at}/features.parquet")
    ]
    tokens = sum(row["prompt_tokens"] for row in features) / len(features) * plan["generated_rows"]
    assert abs(plan["prompt_tokens"] - tokens) < 0.05 * tokens


def test_a_pool_that_stands_whole_in_the_test_set_is_a_mistake(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    told = "40 of 40 examples of data.pool stand in data.test too: they are never picked"
    same = f"data.test={project.folder / 'pool.jsonl'}"
    planned = project.call("plan", "sort.yaml", same)
    assert planned.returncode == 0, planned.stderr
    assert f"warning: {told}\n" in planned.stderr
    done = project.call("run", "sort.yaml", same, "--name", "same")
    assert done.returncode == 2, done.stdout
    assert f"error: nothing can be labelled: {told}\n" in done.stderr
    assert "finished" not in done.stdout


def test_a_pool_that_stands_in_part_in_the_test_set_is_warned_of(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    pool, test = project.folder / "pool.jsonl", project.folder / "test.jsonl"
    test.write_text(test.read_text() + "\n".join(pool.read_text().splitlines()[:3]) + "\n")
    told = "warning: 3 of 40 examples of data.pool stand in data.test too: they are never picked"
    small = [
        "selection.strategy=random",
        "evaluation.zero_shot=false",
        "stopping.rounds=1",
        "evaluation.metrics=[words]",
    ]
    done = project.call("run", "sort.yaml", *small, "--name", "part")
    assert done.returncode == 0, done.stderr
    assert told in " ".join(done.stdout.split())
