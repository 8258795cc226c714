"""Names of models: `<base>`, or `<base>:<run>-<round>` for the adapter that a run trained in a
round; the last one of a fine-tuning job is `ft:<base>:<suffix>:<id>`. `<base>:<run>` is the adapter
that is promoted.

The journal says which adapters exist, and the run's folder holds them. A replica has no state of
its own beyond these two: after a restart it finds every adapter again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atgen_ray.config import ModelConfig
from atgen_ray.core.checkpoints import ADAPTER_WEIGHTS
from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.core.stored import Stored
from atgen_ray.engines.adapter_probe import Probe, read_probes
from atgen_ray.models.loading import digest_adapter
from atgen_ray.runs.state import explain_missing
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.tuned_names import ROUND, find_tuning_run
from atgen_ray.serving.tuned_names import name_model as tuned_name
from atgen_ray.store.events import Event, find_last_round
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.promotions import find_promoted
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import find_output

ADAPTER = re.compile(rf"(?P<run>{NAME_PATTERN.pattern})-(?P<round>[1-9][0-9]{{0,5}})")


@dataclass(frozen=True)
class Adapter:
    """An adapter, and where it is on the disk of this node. `digest` is that of its weights;
    responses carry it as proof of origin. `probes` are what its training answered with it.
    """

    name: str  # <run>-<round>
    stored: Stored
    path: Path
    digest: str
    probes: Sequence[Probe] = ()

    @property
    def key(self) -> str:
        """Return the name for engines. Engines cache by name, so other weights need another
        name.
        """
        return f"{self.name}@{self.digest[:16]}"


class AdapterDirectory:
    """The adapters of one base model in one storage."""

    def __init__(
        self, model: ModelConfig, model_name: str | None, storage: str, journal: Journal
    ) -> None:
        self.base = model_name or name_model(model.id)
        self._model = model
        self._storage = storage
        self._journal = journal
        # Each with the time at which its weights were written (ns).
        self._known: dict[str, tuple[int, Adapter]] = {}
        self._trained: set[str] = set()  # names that are <run>-<round>, and not those of runs

    def parse(self, model: str) -> str | None:
        """Return the adapter's name in a model's name, `<run>-<round>`; None for the base model. Of
        `<base>:<run>` it is the adapter promoted now, which the journal is asked for each time.

        Raises:
            ApiError: 404, another base model, or a name that no adapter can have.
        """
        if (run := find_tuning_run(self.base, model)) is not None:
            with self._journal.database.reading() as connection:
                return f"{run}-{find_last_round(connection, run, 'training') or ROUND}"
        base, colon, name = model.partition(":")
        if base != self.base or (colon and not NAME_PATTERN.fullmatch(name)):
            raise ApiError(
                404,
                f"model {model[:200]!r} is unknown, expected {self.base}, {self.base}:RUN-ROUND or "
                f"{self.base}:RUN",
            )
        if not colon:
            return None
        return self._find_promoted(name) or name

    def _find_promoted(self, name: str) -> str | None:
        """Return the promoted adapter of the run `name`; None where the name is `<run>-<round>` of
        a run that there is.

        Raises:
            ApiError: 404, there is no such run, or it has no promoted adapter.
        """
        trained = ADAPTER.fullmatch(name)
        if name in self._trained:
            return None
        if trained is not None and (
            self._journal.find_run(trained["run"]) is not None
            or self._journal.find_run(name) is None
        ):
            self._trained.add(name)
            return None
        if self._journal.find_run(name) is None:
            raise ApiError(404, f"model '{self.base}:{name}' is unknown: there is no run '{name}'")
        promoted = find_promoted(self._journal, name)
        if promoted is None:
            raise ApiError(
                404,
                f"model '{self.base}:{name}' is unknown: run '{name}' has no promoted adapter, "
                f"expected {self.base}:{name}-ROUND",
            )
        return f"{name}-{promoted.round}"

    def find_named(self, model: str) -> Adapter | None:
        """Return the adapter that a model's name stands for, as `parse` and `find`; None: the base
        model.
        """
        name = self.parse(model)
        return None if name is None else self.find(name)

    def find(self, name: str) -> Adapter:
        """Return the adapter `<run>-<round>`, fetched to local disk.

        Raises:
            ApiError: 404, no run of this base model has trained it.
        """
        if name in self._known:
            # A run of the same name, deleted and started again, may have written other weights.
            written, known = self._known[name]
            weights = known.path / ADAPTER_WEIGHTS
            if weights.exists() and weights.stat().st_mtime_ns == written:
                known.stored.local()  # keeps the copy on this node's disk
                return known
        match = ADAPTER.fullmatch(name)
        if match is None:
            raise ApiError(404, f"adapter {name[:200]!r} is unknown, expected RUN-ROUND")
        run = match["run"]
        round = int(match["round"])
        try:
            record = self._journal.run(run)
        except StorageUnavailableError:
            raise
        except UserError:
            raise ApiError(404, f"adapter '{name}' is unknown: there is no run '{run}'") from None
        if not self._is_ours(record.config):
            raise ApiError(
                404,
                f"adapter '{name}' belongs to model {record.config['model']['id']!r}, not to "
                f"{self.base}",
            )
        trained = self._journal.committed_steps(run).get((round, "training"))
        if trained is None:
            raise ApiError(
                404, f"adapter '{name}' is unknown: run '{run}' has trained none in round {round}"
            )
        folder = RunFolder(self._storage, run)
        rel = f"{round_folder(round)}/adapter"
        try:
            adapter = _fetch(name, folder, trained, rel)
        except FileNotFoundError:  # its controller gave it its name meanwhile
            adapter = _fetch(name, folder, trained, rel)
        if adapter is None:
            raise ApiError(404, explain_missing(run, round, "training", folder.path(rel)))
        self._known[name] = (adapter.path / ADAPTER_WEIGHTS).stat().st_mtime_ns, adapter
        return adapter

    def list(self) -> list[tuple[str, float]]:
        """Return the names that callers may use with the time each was made (seconds since 1970, 0
        for the base model): the base model, then every adapter.
        """
        names = [(self.base, 0.0)]
        for record in self._journal.runs():
            if self._is_ours(record.config):
                steps = self._journal.committed_steps(record.name).items()
                trained = {at or 0: event for (at, step), event in steps if step == "training"}
                for round, event in trained.items():
                    name = f"{self.base}:{record.name}-{round}"
                    last = round == max(trained)
                    tuned = tuned_name(self.base, record.name) if last else None
                    names.append((tuned or name, event.time))
                if promoted := find_promoted(self._journal, record.name):
                    names.append((f"{self.base}:{record.name}", promoted.time))
        return names

    def has_live_controller(self, run: str) -> bool:
        """Return whether the run has a controller."""
        return self._journal.has_live_controller(run)

    def _is_ours(self, config: dict[str, Any]) -> bool:
        model = config.get("model", {})
        return (model.get("id"), model.get("revision")) == (self._model.id, self._model.revision)


def name_model(location: str) -> str:
    """Return the default name of a model: the last part of its id or path, without a file's
    ending.
    """
    return location.rstrip("/").rpartition("/")[2].removesuffix(".gguf").replace(":", "-")


def _fetch(name: str, folder: RunFolder, trained: Event, rel: str) -> Adapter | None:
    """Return the adapter at `rel` on the disk of this node; None where it is gone."""
    found = find_output(folder, trained, rel)
    if found is None:
        return None
    stored = found.refer(rel)
    path = stored.local()
    return Adapter(name, stored, path, digest_adapter(path), _read_probes(folder, trained, rel))


def _read_probes(folder: RunFolder, trained: Event, rel: str) -> Sequence[Probe]:
    """Return what the training wrote beside the adapter at `rel`."""
    result = f"{rel.rpartition('/')[0]}/training.json"
    found = find_output(folder, trained, result)
    return () if found is None else read_probes(found.read_json(result))
