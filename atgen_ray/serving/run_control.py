"""Starting, resuming and watching runs on behalf of callers over HTTP."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atgen_ray.config import EvaluationConfig, MetricModelsConfig, ModelAnnotatorConfig, RunConfig, ServiceConfig
from atgen_ray.config_source import parse_config
from atgen_ray.driver import enter_run, start_controller
from atgen_ray.errors import UserError
from atgen_ray.journal import Journal
from atgen_ray.runs import export_labels, list_runs, show_run, stop_run
from atgen_ray.serving.data_roots import check_location
from atgen_ray.serving.faults import Fault
from atgen_ray.strict_json import encode_json

OVER = ("finished", "stopped", "failed")
POLL_SECONDS = 0.5
QUIET_SECONDS = 15.0  # after which a silent stream shows that it lives


class RunControl:
    """The runs of one service's storage."""

    def __init__(self, service: ServiceConfig, journal: Journal) -> None:
        self._service, self._journal = service, journal

    def start(self, tree: dict[str, Any]) -> str:
        """Starts the run that `tree` describes, or resumes it, in an actor that outlives its caller; its name.

        Storage and journal are the service's own, and data must lie below its data_roots.

        Raises:
            UserError: a mistake in the configuration.
            Fault: 409, a run of that name has another configuration.
        """
        for key in ("storage", "database_url"):
            if key in tree:
                raise UserError(f"{key} is given, but a run of the service is kept in the service's own storage")
        config = parse_config(tree | {"storage": self._service.storage, "database_url": self._service.database_url})
        config = self._confine(config)
        try:
            enter_run(config, self._journal)
        except UserError as error:
            raise Fault(409, str(error)) from None
        start_controller(config)
        return config.name

    def resume(self, name: str) -> None:
        """Goes on with a run as it was given. Nothing happens when it runs already."""
        tree = dict(self._find(name).config)
        config = parse_config(tree | {"database_url": self._service.database_url})
        start_controller(self._confine(config))

    def list(self) -> list[dict[str, Any]]:
        """As `atgen-ray runs list`."""
        return list_runs(self._service.storage, self._service.database_url)

    def show(self, name: str) -> dict[str, Any]:
        """As `atgen-ray runs show`."""
        self._find(name)
        return show_run(name, self._service.storage, self._service.database_url)

    def stop(self, name: str) -> str:
        """Asks the run's controller to stop; says what will happen."""
        self._find(name)
        return stop_run(name, self._service.storage, self._service.database_url)

    def export(self, name: str, format: str) -> bytes:
        """The labelled set as a file."""
        self._find(name)
        with tempfile.TemporaryDirectory(prefix="atgen-export-") as folder:
            _, path = export_labels(
                name, self._service.storage, self._service.database_url, format, Path(folder, f"labels.{format}")
            )
            return path.read_bytes()

    def events(self, name: str, after: int) -> Iterator[str]:
        """The run's events from `after` on as server-sent events, until the run is over; then one called `end`."""
        self._find(name)
        return self._stream(name, after)

    def _stream(self, name: str, after: int) -> Iterator[str]:
        told = time.monotonic()
        while True:
            status = self._journal.run(name).status  # before the events, so that an ended run has all of them
            for event in self._journal.events(name, after):
                after, told = event.sequence, time.monotonic()
                yield f"id: {after}\nevent: {event.kind}\ndata: {encode_json(asdict(event))}\n\n"
            if status in OVER:
                yield f"event: end\ndata: {encode_json({'status': status})}\n\n"
                return
            if time.monotonic() - told > QUIET_SECONDS:
                told = time.monotonic()
                yield ": still here\n\n"
            time.sleep(POLL_SECONDS)

    def _find(self, name: str) -> Any:
        try:
            return self._journal.run(name)
        except UserError as error:
            raise Fault(404, str(error)) from None

    def _confine(self, config: RunConfig) -> RunConfig:
        """The same run with its files resolved; callers over HTTP read nothing else of this machine."""
        roots, data, model = self._service.data_roots, config.data, config.model
        if model.trust_remote_code:
            raise UserError("model.trust_remote_code is true, which a run given over HTTP must not ask for")
        same_model = self._service.model is not None and model.id == self._service.model.id
        moved = {"pool": check_location(data.pool, roots, "data.pool")}
        if data.test is not None:
            moved["test"] = check_location(data.test, roots, "data.test")
        if data.path is not None:
            moved["path"] = check_location(data.path, roots, "data.path")
        for key, location in list_locations(config.evaluation):
            check_location(location, roots, key)
        if not same_model:
            check_location(model.id, roots, "model.id")
        if config.embedding.model != self._service.embedding.model:
            check_location(config.embedding.model, roots, "embedding.model")
        return config.model_copy(update={"data": data.model_copy(update=moved)})


def list_locations(evaluation: EvaluationConfig) -> Iterator[tuple[str, str]]:
    """What metrics and judge load, with its key; published checkpoints apart."""
    published = MetricModelsConfig().model_dump()
    for metric, models in evaluation.models.model_dump().items():
        for name, value in models.items():
            if isinstance(value, str) and value != published[metric][name]:
                yield f"evaluation.models.{metric}.{name}", value
    if isinstance(evaluation.judge, ModelAnnotatorConfig):
        yield "evaluation.judge.model.id", evaluation.judge.model.id
