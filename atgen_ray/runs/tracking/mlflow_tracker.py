"""A run of ours as one run of MLflow."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_yaml import dump_yaml
from atgen_ray.runs.tracking.tracker import Ending, RoundRecord, set_defaults

ID_TAG = "atgen_run"  # tag with the id that the journal has
# Unless the environment says otherwise. The client would wait four minutes for a server that is
# gone, and would tell its makers how it is used.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
SQLITE = "sqlite:///"
MOST_PARAMS = 100  # of one request
MOST_METRICS = 1000
LONGEST_PARAM = 500
ENDINGS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


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
        set_defaults(DEFAULTS)
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
        self._client.set_terminated(self._run, ENDINGS[ending])

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
