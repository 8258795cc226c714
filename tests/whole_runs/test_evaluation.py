"""Whole runs that are judged in other ways than by their test set, and tuned in other ways than by
LoRA.
"""

from collections.abc import Callable

from helpers.projects import Project

QUICK = ["selection.strategy=random", "--name"]


def test_few_shot_beside_zero_shot_and_a_dev_target_of_any_metric(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    dev = ["evaluation.few_shot=2", "evaluation.dev_fraction=0.4", "stopping.dev_target={chrf: 0}"]
    done = project.call("run", "sort.yaml", *QUICK, "shots", *dev)
    assert done.returncode == 0, done.stderr
    assert "dev target reached" in done.stdout
    start, first = project.read("shots", "metrics.json")
    assert set(first["few_shot_metrics"]) == set(start["metrics"]) >= {"chrf", "rougeL"}
    assert (
        first["dev_metrics"]["chrf"]["count"]
        == first["labels"] - project.read("shots", "rounds/001/training.json")["examples"]
    )
    assert "\nshots" in done.stdout
    assert "few-shot" in (project.folder / "atgen-runs/runs/shots/report.html").read_text()
    zero, few = (
        project.read("shots", file)
        for file in ("rounds/000/predictions.jsonl", "rounds/001/few_shot.jsonl")
    )
    assert [row["id"] for row in zero] == [row["id"] for row in few]
    assert [row["prediction"] for row in zero] != [row["prediction"] for row in few]
    assert all(row["scores"].keys() == first["few_shot_metrics"].keys() for row in few)


def test_full_fine_tuning_goes_round_and_leaves_a_model(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    full = [
        "training.method=full",
        "training.warm_start=true",
        "training.trackers=[tensorboard,mlflow]",
    ]
    # The machine of the controller, as that of another cluster, does not know the server.
    settings = {"MLFLOW_TRACKING_URI": "sqlite:///nowhere.db"}
    quick = [*QUICK, "full", "evaluation.zero_shot=false"]
    done = project.call("run", "sort.yaml", *quick, *full, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: mlflow of training.trackers does not work") == 1
    root = project.folder / "atgen-runs/runs/full"
    for round in ("001", "002"):
        files = {path.name for path in (root / "rounds" / round / "adapter").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
        assert list((root / "logs" / round).rglob("events*"))
    first, second = (
        project.read("full", f"rounds/{at}/predictions.jsonl") for at in ("001", "002")
    )
    assert [row["prediction"] for row in first] != [row["prediction"] for row in second]
