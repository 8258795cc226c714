"""A run that picks for a target in the space of its own model, killed while it embeds."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.projects import Project, make_project_in

from atgen_ray.embedding import load_embeddings
from atgen_ray.reporting.collect import collect_run
from atgen_ray.store.run_folder import RunFolder

COMMAND = (
    "run",
    "sort.yaml",
    "selection.strategy=targeted_facility_location",
    "embedding.source=model",
    "stopping.rounds=2",
    "evaluation.zero_shot=false",
)


@pytest.fixture
def project(tmp_path: Path, tiny_model: str) -> Project:
    """The project with four rows of its pool as the target, and a fifth that cannot be used."""
    project = make_project_in(tmp_path, tiny_model)
    rows = [json.loads(line) for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    target = [*({"task": row["task"]} for row in rows[:4]), {"task": {"words": ""}}]
    (tmp_path / "target.jsonl").write_text("".join(json.dumps(row) + "\n" for row in target))
    return project


def test_a_targeted_run_in_the_model_s_space_is_killed_and_goes_on(
    ray_session: None, project: Project
) -> None:
    target = f"data.target={project.folder / 'target.jsonl'}"
    process = project.start(*COMMAND, target, "--json")
    for line in process.stdout or []:
        if '"step": "embedding"' in line:
            break
    process.kill()
    process.communicate(timeout=120)
    done = project.run(*COMMAND, target)
    assert done.returncode == 0, done.stderr
    assert project.call("doctor", "sort").returncode == 0

    folder = RunFolder(str(project.folder / "atgen-runs"), "sort")
    prompts = folder.read_table("target.parquet")
    assert len(prompts) == 4
    texts = folder.read_table("pool.parquet")["content"].to_pylist()
    vectors = load_embeddings(folder, texts)
    assert vectors.shape == (40, 64)  # the width of the tiny model, not of an encoder
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=0.1)  # centred

    view = collect_run(folder)
    [first, second] = [one.target for one in view.rounds if one.target]
    # The target's prompts stand in the pool, so that ten picks hold all of them.
    assert (first.prompts, first.picks, second.picks) == (4, 5, 10)
    assert second.similarity == pytest.approx(1, abs=1e-3)
    assert second.random_similarity < 0.95
    assert second.covered == 1.0
    rows = {row["id"]: row["row"] for row in project.read("sort", "pool.parquet")}
    picked = [rows[row["id"]] for row in project.read("sort", "labeled.jsonl")]
    assert set(picked) >= {0, 1, 2, 3}
    report = project.call("report", "sort", "--output", str(project.folder / "report.html"))
    assert report.returncode == 0, report.stderr
    assert "How much of the target the picks so far cover" in (
        project.folder / "report.html"
    ).read_text(encoding="utf-8")
