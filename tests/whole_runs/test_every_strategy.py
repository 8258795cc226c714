"""Every strategy in a real run: all of them vote in one ensemble."""

import json
from pathlib import Path

from helpers.projects import Project

from atgen_ray.selection.strategies import PLAIN


def test_every_strategy_votes_in_a_run_of_the_demo(
    ray_session: None, tmp_path: Path, tiny_model: str
) -> None:
    project = Project(tmp_path)
    members = {name: {"weight": 1} for name in PLAIN}
    done = project.call(
        "run",
        "demo",
        f"model.id={tiny_model}",
        "engine.backend=transformers",
        "selection.strategy=ensemble",
        f"selection.parameters={json.dumps({'members': members})}",
        "selection.count=2",
        "selection.candidates=6",
        "data.limit=12",
        # Prompts of the demo's own test set are the use in mind.
        "data.target=package://aclsum/dataset/test.jsonl",
        "data.target_split=train[:5]",
        "data.test=null",
        "model.max_new_tokens=4",
        "model.max_prompt_tokens=192",
        "evaluation.zero_shot=false",
        "training.epochs=1",
        "stopping.rounds=2",
    )
    assert done.returncode == 0, done.stderr
    picked: list[str] = []
    for round in ("001", "002"):
        features = project.read("demo", f"rounds/{round}/features.parquet")
        assert len(features) == 6
        assert all(
            row["error"] is None and len(row["samples"]) == 10 and row["state"] for row in features
        )
        picks = project.read("demo", f"rounds/{round}/selection.parquet")
        assert len(picks) == 2
        for pick in picks:
            votes = dict(pick["parts"])
            assert votes.keys() == PLAIN.keys()
            assert all(0 <= vote <= 1 for vote in votes.values())
        picked += [pick["id"] for pick in picks]
    assert len(set(picked)) == 4
