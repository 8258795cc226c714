"""The annotation step of a run's controller, without Ray."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import GOLD_SCHEMA, POOL_SCHEMA, SELECTION_SCHEMA
from atgen_ray.runs.controller import Controller
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from helpers.annotation_desk import quiet
from helpers.fakes.state import label_of


class Round:
    """The annotation step of a run's controller, of which all steps before it are done."""

    def __init__(self, folder: Path, config: RunConfig, texts: dict[str, str]) -> None:
        self.config, self.texts, self.storage = config, texts, RunFolder(str(folder), config.name)
        self.journal = Journal(f"sqlite:///{folder / 'atgen.db'}")
        self.journal.create_run(config.name, dump_config(config), "")
        rows = [
            {"id": id_, "row": row, "text": text, "content": id_}
            for row, (id_, text) in enumerate(texts.items())
        ]
        self.storage.write_table("pool.parquet", pa.Table.from_pylist(rows, POOL_SCHEMA))
        gold = [{"id": id_, "references": [label_of(text)]} for id_, text in texts.items()]
        self.storage.write_table("gold.parquet", pa.Table.from_pylist(gold, GOLD_SCHEMA))

    def annotate(self, round: int = 1, ids: list[str] | None = None, **stopping: Any) -> Controller:
        """The step as the same command does it, with other budgets where they are given."""
        if stopping:
            self.config = self.config.model_copy(
                update={"stopping": self.config.stopping.model_copy(update=stopping)}
            )
        picks = [
            {"id": id_, "rank": rank, "score": 0.0, "parts": {}}
            for rank, id_ in enumerate(ids or self.texts, 1)
        ]
        table = pa.Table.from_pylist(picks, SELECTION_SCHEMA)
        self.storage.write_table(f"rounds/{round:03d}/selection.parquet", table)
        lease = self.journal.acquire(
            self.config.name, ProcessIdentity("controller"), 600, takeover=True
        )
        controller = Controller(
            self.config, self.journal, lease, self.storage, ProgressTracker(), quiet
        )
        try:
            controller.labels.annotate(round)
        finally:
            lease.release()
        return controller

    def labels(self) -> dict[str, str]:
        return {label.id: label.text for _, label in self.journal.annotations(self.config.name)}
