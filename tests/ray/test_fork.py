"""A run that takes over another one's labels, from the command line: it trains on them anew and
goes on by itself.
"""

from pathlib import Path

from projects import Project


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_goes_on_from_another_with_another_method_metric_and_strategy(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path)
    source = project.folder / "atgen-runs/runs/sort"
    before = read_files(source)
    settings = [
        "training.method=rslora",
        "evaluation.metrics=[chrf]",
        "selection.strategy=random",
        "stopping.rounds=3",
    ]
    # What the source paid counts against no budget: three labels are within it.
    command = (
        "run",
        "sort.yaml",
        "--name",
        "fork",
        "--from",
        "sort",
        *settings,
        "stopping.dollars=1.6",
    )
    done = project.run(*command)
    assert done.returncode == 0, done.stderr
    rows = project.read("fork", "metrics.json")
    assert [(row["round"], row["labels"], row["dollars"]) for row in rows] == [
        (0, 0, 0),
        (2, 10, 0),
        (3, 13, 1.5),
    ]
    assert [row["inherited_dollars"] for row in rows] == [0, 5.0, 5.0]
    assert all(set(row["metrics"]) == {"chrf"} for row in rows)
    taken = project.read("fork", "labeled.jsonl")
    assert [(row["id"], row["text"]) for row in taken[:10]] == [
        (row["id"], row["text"]) for row in project.read("sort", "labeled.jsonl")
    ]
    assert len({row["id"] for row in taken}) == 13
    assert not (
        project.folder / "atgen-runs/runs/fork/rounds/001/adapter"
    ).exists()  # nothing is trained twice
    assert read_files(source) == before
    assert "another run paid 5.0000 dollars" in project.call("runs", "show", "fork").stdout
    project.call("runs", "export", "fork")
    lines = (project.folder / "fork.jsonl").read_text().splitlines()
    assert sum('"run":"sort"' in line.replace(" ", "") for line in lines) == 10
    again = project.run(*command)
    assert again.returncode == 0, again.stderr
    assert project.read("fork", "labeled.jsonl") == taken
