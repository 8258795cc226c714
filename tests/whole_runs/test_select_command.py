"""`atgen-ray select`: one-shot selection from a pool that nobody has labelled."""

import json
import signal
from collections.abc import Callable

import yaml
from helpers.projects import Project

from atgen_ray.selection import Bound
from atgen_ray.store.journal import Journal


def unlabelled(project: Project) -> Project:
    """The project with a pool and configuration that hold no answers at all, and no test set."""
    rows = [json.loads(line) for line in (project.folder / "pool.jsonl").read_text().splitlines()]
    (project.folder / "pool.jsonl").write_text(
        "".join(json.dumps({"task": row["task"]}) + "\n" for row in rows)
    )
    config = yaml.safe_load((project.folder / "sort.yaml").read_text())
    config["data"] = {"pool": "pool.jsonl", "input": "task.words"}
    (project.folder / "sort.yaml").write_text(yaml.safe_dump(config))
    return project


def test_a_pool_without_answers_is_ranked_once_and_resumed(
    make_project: Callable[[], Project],
) -> None:
    project = unlabelled(make_project())
    (project.folder / "out").mkdir()
    command = ("select", "sort.yaml", "--count", "7", "--output", "out/picks.jsonl")
    process = project.start(*command, "--json")
    for line in process.stdout or []:
        if '"step": "generation"' in line:
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert not (project.folder / "out/picks.jsonl").exists()

    done = project.run(*command)
    assert done.returncode == 0, done.stderr
    assert "7 of 40 examples selected: out/picks.jsonl" in done.stdout
    rows = [
        json.loads(line) for line in (project.folder / "out/picks.jsonl").read_text().splitlines()
    ]
    assert [row["rank"] for row in rows] == list(range(1, 8))
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    pool = [json.loads(line) for line in (project.folder / "pool.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["input"] == f"Sort: {pool[row['row']]['task']['words']}"
        assert {"nll", "diversity"} <= row["parts"].keys()
    assert "finished" in project.call("runs", "show", "sort-select-7").stdout
    steps = [
        event["step"]
        for event in json.loads(project.call("runs", "show", "sort-select-7", "--json").stdout)[
            "events"
        ]
    ]
    assert [step for step in steps if step] == ["pool", "embedding", "generation", "selection"]


def test_a_selection_says_how_near_it_is_to_the_best(
    make_project: Callable[[], Project],
) -> None:
    project = unlabelled(make_project())
    command = ("select", "sort.yaml", "--count", "3", "--output", "picks.jsonl")
    done = project.run(*command, "selection.strategy=facility_location")
    assert done.returncode == 0, done.stderr
    [database] = (project.folder / "atgen-runs").glob("*.db")
    journal = Journal(f"sqlite:///{database}")
    steps = {event.step: event.payload for event in journal.events("sort-select-3", kind="step")}
    journal.close()
    bound = Bound(**steps["selection"]["bound"])
    assert (bound.measured, bound.pool) == (40, 40)
    assert f"coverage of the pool: {bound}" in done.stdout
    assert ">=" in str(bound)


def test_mistakes_are_told_before_any_work(make_project: Callable[[], Project]) -> None:
    project = unlabelled(make_project())
    (project.folder / "folder").mkdir()
    for arguments, message in (
        (("--count", "5", "--output", "folder"), "--output is 'folder'"),
        (("--count", "0", "--output", "picks.jsonl"), "--count"),
        (
            ("--count", "5", "--output", "p.jsonl", "selection.strategy=hudds"),
            "did you mean 'huds'",
        ),
    ):
        refused = project.call("select", "sort.yaml", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
    assert not (project.folder / "atgen-runs").exists()
