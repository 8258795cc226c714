"""People as the annotator: their tasks go up on the pages of the service, and the run waits for the
answers.

All that waits is in the journal: the controller only looks at it now and then, and one that died
goes on where the other was.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.notifications import Notification, send_notification
from atgen_ray.annotation.human.round_tasks import TaskDraft, TaskRound
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.records import Annotation, DeadLetter

AWAITING = "awaiting-human"  # an event: tasks are up, and people were told
POLL_SECONDS = 0.5


class HumanAnnotator:
    """Waits for people. Labels are in the journal as soon as they are taken, before all are
    there.
    """

    name = "human"

    def __init__(self, config: HumanAnnotatorConfig, site: AnnotationContext) -> None:
        self._config = config
        self._site = site
        self._round = TaskRound(config, site)
        self._first: Mapping[str, Mapping[str, Any]] = {}

    def expect(self, first: Mapping[str, Mapping[str, Any]]) -> None:
        """What a first annotator said of the examples to come, by id: `annotator`, `text`,
        `dollars`, `reason`.
        """
        self._first = first

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        site = self._site
        suggestions = self._read_suggestions(ids)
        reasons = self._read_reasons()
        self._round.publish_tasks(
            [
                TaskDraft(
                    id_,
                    text,
                    suggestions.get(id_),
                    reasons.get(id_),
                    dict(self._first.get(id_, {})) or None,
                )
                for id_, text in zip(ids, texts, strict=True)
            ]
        )
        self._announce()
        labels = list[Annotation]()
        dead = list[DeadLetter]()
        while True:
            taken, buried = self._round.take()
            labels += taken
            dead += buried
            left = self._round.count_left()
            site.progress(max(0, len(ids) - left), len(ids))
            if not left:
                return labels, dead
            time.sleep(POLL_SECONDS)

    def _announce(self) -> None:
        """Tells people once a round; one that is told twice, after a death in between, does no
        harm.
        """
        site = self._site
        left = self._round.count_left()
        told = {event.round for event in site.journal.events(site.config.name, kind=AWAITING)}
        if not left or site.round in told:
            return
        service = self._config.notice.service
        run = site.config.name
        page = f"{service.rstrip('/')}/annotate/{run}" if service else None
        fates = send_notification(self._config.notice, Notification(run, site.round, left, page))
        site.journal.append(
            site.lease, AWAITING, site.round, "annotation", {"tasks": left, "notices": fates}
        )

    def _read_suggestions(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The first annotator's answers, else those of the model as it was when the batch was
        picked.
        """
        site = self._site
        rel = f"rounds/{self._site.round:03d}/features.parquet"
        found: dict[str, dict[str, Any]] = {}
        if site.folder.exists(rel):
            rows = site.folder.read_table(rel, columns=["id", "text"]).to_pylist()
            wanted = set(ids)
            model = site.config.model.id.rstrip("/").rpartition("/")[2]
            done = site.journal.committed_steps(site.config.name)
            trained = (at for at in range(site.round - 1, 0, -1) if (at, "training") in done)
            source = {"source": model, "round": next(trained, 0)}
            found = {
                row["id"]: source | {"text": row["text"]}
                for row in rows
                if row["id"] in wanted and row["text"]
            }
        for id_, first in self._first.items():
            if first.get("text"):
                found[id_] = {
                    "source": first["annotator"],
                    "round": site.round,
                    "text": first["text"],
                }
        return found

    def _read_reasons(self) -> dict[str, dict[str, Any]]:
        """Why each example was picked."""
        site = self._site
        rel = f"rounds/{self._site.round:03d}/selection.parquet"
        if not site.folder.exists(rel):
            return {}
        selection = site.config.selection
        first = site.config.selection.first
        strategy = first.strategy if site.round == 1 and first.strategy else selection.strategy
        rows = site.folder.read_table(rel).to_pylist()
        return {
            row["id"]: {
                "strategy": strategy,
                "rank": row["rank"],
                "score": row["score"],
                "parts": dict(row["parts"]),
            }
            for row in rows
        }
