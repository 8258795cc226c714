"""What MLflow and Weights & Biases receive of a run, from their own clients, without a network."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.wandb_files import read_wandb_files

from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import RunStopped
from atgen_ray.runs.tracking.tracking import Tracking
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import events

LOSSES = {1: [3.0, 2.0], 2: [1.5, 1.0, 0.5], 3: [0.25]}


class Attempts:
    """A run whose rounds are done already, and attempts at tracking it."""

    def __init__(self, storage: Path, trackers: list[str]) -> None:
        tracking = {"experiment": "sorting", "project": "sorting", "tags": {"team": "a"}}
        training = {"trackers": trackers, "tracking": tracking}
        tree = {"name": "task", "data": {"pool": "p.jsonl", "references": "a"}}
        self.config = parse_config(
            tree | {"model": {"id": "m"}, "storage": str(storage), "training": training}
        )
        self.journal: Journal = open_journal(str(storage))
        self.folder = RunFolder(str(storage), "task")
        self.journal.create_run("task", dump_config(self.config), "")
        for round, losses in LOSSES.items():
            steps = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
            self.folder.write_json(f"rounds/{round:03d}/training.json", {"losses": steps})
            with self.folder.publish(f"rounds/{round:03d}/adapter") as adapter:
                (adapter / "adapter_config.json").write_text("{}")

    def rows(self, last: int) -> list[dict[str, Any]]:
        return [
            {
                "round": round,
                "labels": 10 * round,
                "dollars": 0.5 * round,
                "seconds": {"training": 2.0},
                "metrics": {"rougeL": {"mean": 0.1 * round}},
                "dev_metrics": None,
            }
            for round in range(1, last + 1)
        ]

    def attempt(self, *lasts: int, error: Exception | None = None) -> None:
        """One controller: it enters the rounds up to each of `lasts` and ends, in a thread, as the
        round loop does.
        """
        lease = self.journal.acquire("task", ProcessIdentity("test"), 60)

        def run() -> None:
            try:
                with Tracking(self.config, self.journal, lease, self.folder) as tracking:
                    for last in lasts:
                        tracking.log(self.rows(last))
                    if error is not None:
                        raise error
            except RunStopped:
                pass

        thread = Thread(target=run)
        thread.start()
        thread.join()
        lease.release()

    @property
    def warnings(self) -> list[str]:
        return [event.payload["warning"] for event in self.journal.events("task", kind="warning")]


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Attempts]:
    return lambda *trackers: Attempts(tmp_path / "storage", list(trackers))


def test_mlflow_has_the_curve_by_labels_in_one_run_also_after_a_resumption(
    begin: Callable[..., Attempts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = begin("mlflow")
    run.attempt(1, 2, error=RunStopped("stop"))
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("sorting")
    assert experiment is not None
    (stopped,) = client.search_runs([experiment.experiment_id])
    assert stopped.info.status == "KILLED"
    # A crash between the tracker and the journal: the round is sent once more.
    with run.journal.database.writing() as connection:
        lost = (events.c.kind == "tracked") & (events.c.round == 2)
        connection.execute(sa.delete(events).where(lost))
    run.attempt(3)
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.status) == (stopped.info.run_id, "FINISHED")
    assert found.info.run_name == "task"
    assert found.data.tags["team"] == "a"
    assert found.data.params["training.rank"] == "16"

    def curve(name: str) -> list[tuple[int, float]]:
        entries = client.get_metric_history(found.info.run_id, name)
        return sorted((entry.step, round(entry.value, 6)) for entry in entries)

    assert curve("test/rougeL") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert curve("dollars") == [(10, 0.5), (20, 1.0), (30, 1.5)]
    assert curve("loss") == [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0), (5, 0.5), (6, 0.25)]
    assert {file.path for file in client.list_artifacts(found.info.run_id)} == {
        "adapters",
        "config.yaml",
    }
    adapters = client.list_artifacts(found.info.run_id, "adapters")
    assert [file.path for file in adapters] == [f"adapters/{at:03d}" for at in LOSSES]
    assert (tmp_path / "mlflow-artifacts").is_dir()
    assert run.warnings == []


def test_wandb_has_the_curve_by_labels_under_one_id(
    begin: Callable[..., Attempts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = begin("wandb")
    run.attempt(1, 2, error=RunStopped("stop"))
    run.attempt(2, 3)
    assert run.warnings == []
    first, second = read_wandb_files(Path(run.folder.path("logs")))
    assert first.run == second.run
    assert (first.project, first.name, first.tags) == ("sorting", "task", ["team: a"])
    assert first.config["training"]["rank"] == 16
    rounds = [row for row in first.rows + second.rows if "labels" in row]
    assert [(row["labels"], row["dollars"]) for row in rounds] == [(10, 0.5), (20, 1), (30, 1.5)]
    assert [round(row["test/rougeL"], 6) for row in rounds] == [0.1, 0.2, 0.3]
    losses = [row["loss"] for row in first.rows + second.rows if "loss" in row]
    assert losses == [loss for each in LOSSES.values() for loss in each]
    assert first.artifacts == ["task-adapter", "task-adapter"]
    assert second.artifacts == ["task-adapter"]
    assert first.axes["loss"] == "optimiser_step"
    assert first.axes["test/*"] == "labels"


def test_a_tracker_that_fails_is_one_warning_and_gets_later_what_it_missed(
    begin: Callable[..., Attempts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:mlflow-canary@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = begin("mlflow")
    run.attempt(1, 2)
    (warning,) = run.warnings
    assert warning.startswith("mlflow of training.trackers does not work; the run goes on")
    assert "canary" not in warning
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run.attempt(3)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("sorting")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    entries = client.get_metric_history(found.info.run_id, "dollars")
    assert [entry.step for entry in entries] == [10, 20, 30]
    assert len(run.warnings) == 1
