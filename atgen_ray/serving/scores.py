"""Last score of each run, for lists: read once for each change of a run."""

import threading
from typing import Any

from atgen_ray.core.errors import UserError
from atgen_ray.reporting.collect import choose_metric
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder

NONE: dict[str, Any] = {"metric": None, "score": None}


class Scores:
    """Scores of the runs in one storage. Safe to use from threads."""

    def __init__(self, storage: str, journal: Journal) -> None:
        self._storage = storage
        self._journal = journal
        self._kept: dict[str, tuple[str, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def find(self, run: str, changed: str) -> dict[str, Any]:
        """Return the `metric` that the run is steered by and its `score` in the last round that has
        one; both are None before that. `changed` says when the run last changed.
        """
        with self._lock:
            kept = self._kept.get(run)
        if kept is not None and kept[0] == changed:
            return kept[1]
        found = self._read(run)
        with self._lock:
            self._kept[run] = (changed, found)
        return found

    def _read(self, run: str) -> dict[str, Any]:
        folder = RunFolder(self._storage, run)
        try:
            rows = folder.read_json("metrics.json") if folder.exists("metrics.json") else []
            names = [name for row in rows for name in row["metrics"] or {}]
            metric = choose_metric(names, self._journal.run(run).config)
        except (UserError, OSError):  # a list shows the other runs too
            return NONE
        scores = [
            row["metrics"][metric]["mean"] for row in rows if metric in (row["metrics"] or {})
        ]
        return {"metric": metric, "score": scores[-1]} if scores else NONE
