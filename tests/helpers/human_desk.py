"""A run that people label, without Ray: its journal, its controller's side, and the queues of its
people.
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.queue import Queue
from atgen_ray.annotation.human.round_tasks import TaskDraft, TaskRound
from atgen_ray.config import HumanAnnotatorConfig, RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import assignments


def quiet(done: int, total: int) -> None: ...


class HumanDesk:
    """One round of tasks `e00`, `e01`, ... with drafts; labels are taken at once unless said
    otherwise.
    """

    def __init__(
        self,
        journal: Journal,
        count: int = 3,
        stopping: Mapping[str, Any] | None = None,
        notify: Mapping[str, Any] | None = None,
        **settings: Any,
    ):
        annotator = {"type": "human", "settle_seconds": 0.0} | settings
        tree = {
            "data": {"pool": "p.jsonl"},
            "model": {"id": "m"},
            "name": f"people-{uuid4().hex[:12]}",
        }
        self.journal, self.texts = (
            journal,
            {f"e{index:02d}": f"text {index}" for index in range(count)},
        )
        self.config: RunConfig = parse_config(
            tree
            | {"annotator": annotator, "stopping": dict(stopping or {})}
            | ({"notify": dict(notify)} if notify else {})
        )
        self.run = self.config.name
        journal.create_run(self.run, dump_config(self.config), "")

    def round(self, round: int = 1) -> TaskRound:
        """The round as a controller that starts sees it, under a lease of its own."""
        lease = self.journal.acquire(self.run, ProcessIdentity("desk"), 600, takeover=True)
        folder = RunFolder("/nowhere", self.run)
        site = AnnotationContext(
            self.config, self.journal, lease, folder, round, self.texts, (), quiet
        )
        assert isinstance(self.config.annotator, HumanAnnotatorConfig)
        return TaskRound(self.config.annotator, site)

    def publish_tasks(self) -> int:
        """All tasks, again and again."""
        offers = [
            TaskDraft(id_, text, {"text": f"draft of {id_}", "source": "m", "round": 0}, None, None)
            for id_, text in self.texts.items()
        ]
        return self.round().publish_tasks(offers)

    def queue(self, annotator: str) -> Queue:
        return Queue(self.journal, self.run, annotator)

    def expire(self, example_id: str, annotator: str) -> None:
        """As if the time of a lease had passed."""
        here = (assignments.c.run == self.run) & (assignments.c.example_id == example_id)
        here &= assignments.c.annotator == annotator
        with self.journal.database.writing() as connection:
            connection.execute(sa.update(assignments).where(here).values(until=0.0))
