"""MLflow and Weights & Biases: a run of ours is one run there, with its learning curve by labels,
its dollars, its settings, the losses of training and its adapters.

The journal says which rounds a tracker has (events of kind `tracked`), so that a resumed run goes
on in the same run there and enters nothing twice, and a round that a tracker missed follows with
the next one. What a tracker does wrong is a warning; it never ends a run.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self
from uuid import uuid4

from platformdirs import user_cache_path

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config
from atgen_ray.core.checkpoints import is_adapter
from atgen_ray.core.credentials import redact
from atgen_ray.core.errors import RunStopped, UserError
from atgen_ray.core.strict_yaml import dump_yaml
from atgen_ray.store.events import WARNING
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.leases import Lease
from atgen_ray.store.run_folder import RunFolder

TRACKED = "tracked"  # an event: a tracker has a run of ours, or a round of it
ID_TAG = "atgen_run"  # tag of MLflow with the id that the journal has
# Environment variables whose value may be a secret, and stands in errors of trackers.
SECRETS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "WANDB_API_KEY",
)
# Unless the environment says otherwise. MLflow's client would wait four minutes for a server that
# is gone, and both clients would tell their makers how they are used.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
WANDB_DEFAULTS = {"WANDB_ERROR_REPORTING": "false"}
SECONDS = 30.0  # that W&B may take to begin, and to send what is left at the end
SQLITE = "sqlite:///"
MOST_PARAMS = 100  # of one request to MLflow
MOST_METRICS = 1000
LONGEST_PARAM = 500
LONGEST_TAG = 64  # of W&B

Ending = Literal["finished", "stopped", "failed"]
MLFLOW_ENDINGS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class RoundRecord:
    """What trackers are told of a round.

    Attributes:
        labels: so far; the axis of the learning curve.
        metrics: by name, with `/` between its parts, as test/rougeL.
        losses: of the optimiser steps of the round.
        steps: optimiser steps of all rounds before it.
        adapter: its folder; None for a round without one, or with a full model.
    """

    round: int
    labels: int
    metrics: dict[str, float]
    losses: list[float]
    steps: int
    adapter: Path | None


class Tracker(Protocol):
    """One tracker; any method may raise whatever its client raises."""

    def open(self, id: str) -> None:
        """Begin the run with this id there, or continue it."""

    def log_round(self, record: RoundRecord) -> None:
        """Enter a round, except what is there already."""

    def close(self, ending: Ending) -> None:
        """Say how this attempt of the run ended."""


class MLflowTracker:
    """A run in the experiment `training.tracking.experiment` of the server at
    MLFLOW_TRACKING_URI.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def open(self, id: str) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:  # MLflow would make a database in the folder of this process
            raise UserError("MLFLOW_TRACKING_URI is not set where the run's controller is")
        _set_defaults(MLFLOW_DEFAULTS)
        from mlflow import MlflowClient

        self._client = MlflowClient(uri)
        experiment = self._find_experiment()
        found = self._client.search_runs([experiment], f"tags.{ID_TAG} = '{id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            tags = self._config.training.tracking.tags | {ID_TAG: id}
            created = self._client.create_run(experiment, run_name=self._config.name, tags=tags)
            self._run = created.info.run_id
            self._log_params()
        self._client.log_text(self._run, dump_yaml(dump_config(self._config)), "config.yaml")

    def log_round(self, record: RoundRecord) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = []
        if record.labels not in self._list_steps("labels"):
            entries = [
                Metric(name, value, now, record.labels) for name, value in record.metrics.items()
            ]
        known = self._list_steps("loss")
        losses = [
            Metric("loss", loss, now, step)
            for step, loss in enumerate(record.losses, record.steps + 1)
            if step not in known
        ]
        for some in _chunk([*losses, *entries], MOST_METRICS):
            self._client.log_batch(self._run, metrics=some)
        if record.adapter is not None:
            place = f"adapters/{record.round:03d}"
            self._client.log_artifacts(self._run, str(record.adapter), place)

    def close(self, ending: Ending) -> None:
        self._client.set_terminated(self._run, MLFLOW_ENDINGS[ending])

    def _find_experiment(self) -> str:
        """Return the id of the experiment, which is made if there is none."""
        name = self._config.training.tracking.experiment
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        # Files of a run are put beside the database; MLflow would put them where this process runs.
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        beside = None
        if uri.startswith(SQLITE):
            database = Path(uri.removeprefix(SQLITE)).absolute()
            beside = (database.parent / "mlflow-artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=beside))

    def _log_params(self) -> None:
        from mlflow.entities import Param

        settings = _flatten(dump_config(self._config))
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in settings]
        for some in _chunk(params, MOST_PARAMS):
            self._client.log_batch(self._run, params=some)

    def _list_steps(self, metric: str) -> set[int]:
        return {int(entry.step) for entry in self._client.get_metric_history(self._run, metric)}


class WandbTracker:
    """A run in the W&B project `training.tracking.project`; with WANDB_MODE=offline its files are
    in the run's folder, or in the user's cache where that is in an object store.
    """

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self._config = config
        self._folder = folder

    def open(self, id: str) -> None:
        _set_defaults(WANDB_DEFAULTS)
        import wandb

        tracking = self._config.training.tracking
        place = user_cache_path("atgen-ray") / "wandb"
        if self._folder.is_local:
            place = Path(self._folder.path("logs"))
        place.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            id=id,
            resume="allow",
            reinit="create_new",
            project=tracking.project,
            name=self._config.name,
            tags=[f"{key}: {value}"[:LONGEST_TAG] for key, value in tracking.tags.items()],
            config=dump_config(self._config),
            dir=os.environ.get("WANDB_DIR", str(place)),
            settings=wandb.Settings(
                init_timeout=SECONDS,
                finish_timeout=SECONDS,
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
            ),
        )
        for name in ("test/*", "dev/*", "audit/*", "few_shot/*", "seconds/*", "dollars", "round"):
            self._run.define_metric(name, step_metric="labels")
        self._run.define_metric("loss", step_metric="optimiser_step")

    def log_round(self, record: RoundRecord) -> None:
        import wandb

        # Every entry has a number of its own that follows from the round: W&B refuses a number that
        # it has passed, so that a round which was sent before a crash does not count twice.
        number = record.steps + record.round
        for step, loss in enumerate(record.losses, record.steps + 1):
            self._run.log({"optimiser_step": step, "loss": loss}, step=number)
            number += 1
        self._run.log(record.metrics, step=number)
        if record.adapter is not None:
            artifact = wandb.Artifact(f"{self._config.name}-adapter", type="model")
            artifact.add_dir(str(record.adapter))
            self._run.log_artifact(artifact, aliases=["latest", f"round-{record.round:03d}"])

    def close(self, ending: Ending) -> None:
        self._run.finish(exit_code=0 if ending == "finished" else 1)


class Tracking:
    """The trackers of one attempt of a run, as a context manager around it."""

    def __init__(
        self, config: RunConfig, journal: Journal, lease: Lease, folder: RunFolder
    ) -> None:
        self._config = config
        self._journal = journal
        self._lease = lease
        self._folder = folder
        self._trackers: dict[str, Tracker] = {}
        if "mlflow" in config.training.trackers:
            self._trackers["mlflow"] = MLflowTracker(config)
        if "wandb" in config.training.trackers:
            self._trackers["wandb"] = WandbTracker(config, folder)
        self._open: set[str] = set()
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say in every tracker how the run ended; what fails then has no reader left."""
        ending: Ending = "finished" if error is None else "failed"
        if isinstance(error, RunStopped):
            ending = "stopped"
        for name in sorted(self._open):
            with _Attempt():
                self._trackers[name].close(ending)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Enter the rounds of `rows` (`collect_rows`) that a tracker has not."""
        for name, tracker in self._trackers.items():
            known = self._list_known(name)
            missing = [row for row in rows if row["round"] not in known]
            if not missing:
                continue
            with _Attempt() as attempt:
                if name not in self._open:
                    tracker.open(self._identify(name))
                    self._open.add(name)
            for row in missing:
                if attempt.error is not None:
                    break
                with _Attempt() as attempt:
                    tracker.log_round(self._record(row))
                if attempt.error is None:
                    self._journal.append(
                        self._lease, TRACKED, row["round"], payload={"tracker": name}
                    )
            self._warn(name, attempt.error)

    def _warn(self, name: str, error: Exception | None) -> None:
        """Enter a warning of the first failure in a row."""
        if error is None:
            self._warned.discard(name)
        elif name not in self._warned:
            self._warned.add(name)
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            for variable in SECRETS:
                if secret := os.environ.get(variable):
                    reason = reason.replace(secret, variable)
            warning = (
                f"{name} of training.trackers does not work; the run goes on, and what is missing "
                f"there follows with a later round: {redact(reason)}"
            )
            self._journal.append(self._lease, WARNING, payload={WARNING: warning})

    def _identify(self, name: str) -> str:
        """Return the id of this run for a tracker; it is in the journal before the tracker has
        it.
        """
        for event in self._journal.events(self._config.name, kind=TRACKED):
            if event.payload["tracker"] == name and "id" in event.payload:
                return str(event.payload["id"])
        id = uuid4().hex[:16]
        self._journal.append(self._lease, TRACKED, payload={"tracker": name, "id": id})
        return id

    def _list_known(self, name: str) -> set[int]:
        """Return the rounds that a tracker has."""
        return {
            event.round
            for event in self._journal.events(self._config.name, kind=TRACKED)
            if event.payload["tracker"] == name and event.round is not None
        }

    def _record(self, row: Mapping[str, Any]) -> RoundRecord:
        """Return what trackers are told of the round of `row`."""
        round = row["round"]
        metrics = {"labels": row["labels"], "dollars": row["dollars"], "round": round}
        for name, values in (
            ("test", row["metrics"]),
            ("dev", row["dev_metrics"] or {}),
            ("audit", row.get("audit_metrics", {})),
            ("few_shot", row.get("few_shot_metrics", {})),
        ):
            metrics |= {f"{name}/{metric}": value["mean"] for metric, value in values.items()}
        metrics |= {f"seconds/{step}": seconds for step, seconds in row["seconds"].items()}
        trained = f"{round_folder(round)}/adapter"
        adapter = self._folder.local(trained) if self._folder.exists(trained) else None
        return RoundRecord(
            round,
            row["labels"],
            {name: float(value) for name, value in metrics.items() if value is not None},
            self._read_losses(round),
            sum(len(self._read_losses(earlier)) for earlier in range(1, round)),
            adapter if adapter is not None and is_adapter(adapter) else None,
        )

    def _read_losses(self, round: int) -> list[float]:
        path = f"{round_folder(round)}/training.json"
        if not self._folder.exists(path):
            return []
        return [float(step["loss"]) for step in self._folder.read_json(path)["losses"]]


class _Attempt:
    """A block whose exception is kept in `error`, and not raised."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None


def _set_defaults(defaults: Mapping[str, str]) -> None:
    """Set variables that the environment does not have."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a tree by their dotted keys, without those that are null."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _chunk(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
