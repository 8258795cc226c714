"""One round of the demo with its real model, encoder and papers, on real vLLM."""

from pathlib import Path

from projects import Project

SMALL = [
    "data.limit=12",
    "data.test_limit=4",
    "selection.count=6",
    "selection.candidates=8",
    "evaluation.dev_fraction=0.25",
    "stopping.rounds=4",
    "stopping.dev_target={rouge1: 0.01}",
    "training.epochs=1",
    "model.max_new_tokens=16",
]


def test_one_round_of_the_demo_on_vllm(tmp_path: Path) -> None:
    project = Project(tmp_path)
    done = project.run("run", "demo", "engine.backend=vllm", *SMALL)
    assert done.returncode == 0, done.stderr
    # Any answer of the real model shares a word with its reference, so the dev target ends the run
    # after one round.
    assert "dev target reached" in done.stdout
    assert project.read("demo", "versions.json")["engine"] == "vllm"
    rows = project.read("demo", "metrics.json")
    assert [row["labels"] for row in rows] == [0, 6]
    assert all(row["metrics"]["rouge1"]["mean"] > 0 for row in rows)
    assert rows[0]["dev_metrics"] is None
    assert 0 < rows[1]["dev_metrics"]["rouge1"]["count"] < 6
    features = project.read("demo", "rounds/001/features.parquet")
    assert len(features) == 8
    assert all(row["error"] is None and row["logprobs"] for row in features)
