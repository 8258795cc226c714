"""MLflow and Weights & Biases: a run of ours is one run there, with its learning curve by labels,
its dollars, its settings, the losses of training and its adapters.

The journal says which rounds a tracker has (events of kind `tracked`), so that a resumed run goes
on in the same run there and enters nothing twice, and a round that a tracker missed follows with
the next one. What a tracker does wrong is a warning; it never ends a run.
"""

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from atgen_ray.config import RunConfig
from atgen_ray.core.checkpoints import is_adapter
from atgen_ray.core.credentials import redact
from atgen_ray.core.errors import RunStopped
from atgen_ray.runs.tracking.mlflow_tracker import MLflowTracker
from atgen_ray.runs.tracking.tracker import Ending, RoundRecord, Tracker
from atgen_ray.runs.tracking.wandb_tracker import WandbTracker
from atgen_ray.store.events import WARNING
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.leases import Lease
from atgen_ray.store.run_folder import RunFolder

TRACKED = "tracked"  # an event: a tracker has a run of ours, or a round of it
# Environment variables whose value may be a secret, and stands in errors of trackers.
SECRETS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "WANDB_API_KEY",
)


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
