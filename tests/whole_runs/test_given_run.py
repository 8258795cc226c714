"""A run that starts from what exists: labels, picks and an adapter of another one."""

import json
from pathlib import Path

from helpers.projects import Project

FIRST = 5
RIVALS = {"zero-shot", "few-shot (5)", "nearest label"}


def test_a_run_starts_from_labels_picks_and_an_adapter(
    ray_session: None, finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path)
    source = project.folder / "atgen-runs/runs/sort"
    known = project.read("sort", "labeled.jsonl")[:FIRST]
    labelled = {row["id"] for row in project.read("sort", "labeled.jsonl")}
    pool = project.read("sort", "pool.parquet")
    chosen = [row["id"] for row in pool if row["id"] not in labelled][-3:]
    lines = (source / "labeled.jsonl").read_text().splitlines()[:FIRST]
    (project.folder / "known.jsonl").write_text("\n".join(lines) + "\n")
    (project.folder / "picks.txt").write_text("\n".join([*chosen, known[0]["id"]]))
    settings = [
        f"data.labeled={project.folder / 'known.jsonl'}",
        f"selection.ids={project.folder / 'picks.txt'}",
        "model.adapter=sort:1",
        "stopping.rounds=1",
    ]
    done = project.call("run", "sort.yaml", "--name", "next", *settings)
    assert done.returncode == 0, done.stderr
    labels = project.read("next", "labeled.jsonl")
    assert [(row["round"], row["id"], row["text"]) for row in labels[:FIRST]] == [
        (0, row["id"], row["text"]) for row in known
    ]
    assert [row["id"] for row in labels[FIRST:]] == chosen
    assert {row["dollars"] for row in labels[:FIRST]} == {0.0}
    # Before its training the run answers as the adapter did that it goes on from.
    before = {row["id"]: row["prediction"] for row in project.read("sort", "rounds/001/predictions.jsonl") if row["split"] == "test"}  # fmt: skip
    began = {row["id"]: row["prediction"] for row in project.read("next", "rounds/000/predictions.jsonl") if row["split"] == "test"}  # fmt: skip
    assert began == before
    adapters = [source / "rounds/001/adapter", source.parent / "next/rounds/000/adapter"]
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in adapters]
    assert weights[0] == weights[1]
    assert project.read("next", "metrics.json")[-1]["labels"] == FIRST + 3
    assert project.call("doctor", "next").returncode == 0
    shown = project.call("report", "next", "--output", str(project.folder / "next.html"))
    assert shown.returncode == 0, shown.stderr
    assert "picked by selection.ids" in (project.folder / "next.html").read_text("utf-8")

    # What is added is what it may pick next.
    rows = [json.loads(line) for line in (project.folder / "pool.jsonl").read_text().splitlines()]
    texts = [row | {"task": {"words": f"{row['task']['words']} again"}} for row in rows[:20]]
    more = project.folder / "more.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:2], *texts]))
    added = project.call("runs", "add", "next", str(more))
    assert added.returncode == 0, added.stderr
    assert f"{len(texts)} of {len(texts) + 2} rows are added to run 'next'; 2 known" in added.stdout
    again = project.call("runs", "add", "next", str(more))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    settings[-1:] = ["stopping.rounds=2"]
    done = project.call("run", "sort.yaml", "--name", "next", *settings)
    assert done.returncode == 0, done.stderr
    grown = project.read("next", "pool.parquet")
    assert len(grown) == len(pool) + len(texts)
    picks = {row["id"] for row in project.read("next", "rounds/002/selection.parquet")}
    assert picks <= {row["id"] for row in grown if not row["duplicate_of"]}
    assert project.call("doctor", "next", "--deep").returncode == 0
    told = project.call("runs", "show", "next").stdout
    assert f"the pool grew from {len(pool)} to {len(grown)} examples before round 2" in told
    report = (project.folder / "atgen-runs/runs/next/report.html").read_text("utf-8")
    assert f"the pool grew from {len(pool)} to {len(grown)} examples before round 2" in report

    # Was tuning worth it? Two rivals learn from the same labels.
    done = project.call("evaluate", "next", "--rivals", "knn,few_shot")
    assert done.returncode == 0, done.stderr
    found = json.loads((project.folder / "atgen-runs/runs/next/rivals.json").read_text("utf-8"))
    assert {rival["name"] for rival in found["rivals"]} == RIVALS
    answers = {label["text"] for label in project.read("next", "labeled.jsonl")}
    copied = project.read("next", "rounds/002/rivals/knn/predictions.jsonl")
    assert {row["prediction"] for row in copied} <= answers
    assert found["said"] in done.stdout.replace("\n", " ")
    assert project.call("doctor", "next").returncode == 0
