"""People as an annotator: the round's tasks appear on the pages of the service, and the run waits
for the answers.

All state is in the journal, which the controller polls, so a new controller continues where one
that died left off.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.round_tasks import TaskDraft, TaskRound
from atgen_ray.annotation.human.stalls import StallWatch
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.notifications import NewTasks, send_message
from atgen_ray.store.layout import round_folder

AWAITING = "awaiting-human"  # kind of the event: tasks are published, and people were notified
POLL_SECONDS = 0.5
TURN_BYTES = 64  # more than what a chat template puts around a turn


class HumanAnnotator:
    """Publishes the round's tasks and waits for people. Each label is in the journal as soon as it
    is collected.
    """

    name = "human"

    def __init__(self, config: HumanAnnotatorConfig, context: AnnotationContext) -> None:
        self._config = config
        self._context = context
        self._round = TaskRound(config, context)
        self._first: Mapping[str, Mapping[str, Any]] = {}

    def expect(self, first: Mapping[str, Mapping[str, Any]]) -> None:
        """Set what a first annotator said of the examples to come, by id: `annotator`, `text`,
        `dollars`, `reason`.
        """
        self._first = first

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        context = self._context
        suggestions = self._read_suggestions(ids)
        reasons = self._read_reasons()
        beside, fields = self._read_context(ids)
        windows = self._find_windows(texts)
        self._round.publish_tasks(
            [
                TaskDraft(
                    id_,
                    text,
                    suggestions.get(id_),
                    reasons.get(id_),
                    dict(self._first.get(id_, {})) or None,
                    beside.get(id_),
                    window,
                    fields.get(id_),
                )
                for id_, text, window in zip(ids, texts, windows, strict=True)
            ]
        )
        self._announce()
        labels = list[Annotation]()
        dead = list[DeadLetter]()
        stall = StallWatch(context)
        while True:
            taken, given_up = self._round.collect_labels()
            labels += taken
            dead += given_up
            left = self._round.count_left()
            context.progress(max(0, len(ids) - left), len(ids))
            if not left:
                return labels, dead
            stall.look(left)
            machine().sleep(POLL_SECONDS)

    def _announce(self) -> None:
        """Notify people once a round. A second notification, after a process died in between, does
        no harm.
        """
        context = self._context
        left = self._round.count_left()
        notified = {
            event.round for event in context.journal.events(context.config.name, kind=AWAITING)
        }
        if not left or context.round in notified:
            return
        service = self._config.notice.service
        run = context.config.name
        page = f"{service.rstrip('/')}/annotate/{run}" if service else None
        outcomes = send_message(self._config.notice, NewTasks(run, context.round, left, page))
        context.journal.append(
            context.lease,
            AWAITING,
            context.round,
            "annotation",
            {"tasks": left, "notices": outcomes},
        )

    def _read_suggestions(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the first annotator's answers, or else those of the model that selected the batch,
        by id.
        """
        context = self._context
        path = f"{round_folder(context.round)}/features.parquet"
        found: dict[str, dict[str, Any]] = {}
        if context.folder.exists(path):
            rows = context.folder.read_rows(path, ids, ["id", "text"])
            model = context.config.model.id.rstrip("/").rpartition("/")[2]
            done = context.journal.committed_steps(context.config.name)
            trained = (at for at in range(context.round - 1, 0, -1) if (at, "training") in done)
            source = {"source": model, "round": next(trained, 0)}
            found = {row["id"]: source | {"text": row["text"]} for row in rows if row["text"]}
        for id_, first in self._first.items():
            if first.get("text"):
                found[id_] = {
                    "source": first["annotator"],
                    "round": context.round,
                    "text": first["text"],
                }
        return found

    def _read_context(
        self, ids: Sequence[str]
    ) -> tuple[dict[str, list[tuple[str, str]]], dict[str, dict[str, Any]]]:
        """Return the columns that stand beside each input with their texts, in the order of
        `data.context`, and the short columns of its row, by id.
        """
        path = "context.parquet"
        if not self._context.folder.exists(path):
            return {}, {}
        rows = self._context.folder.read_rows(path, ids)
        beside = {
            row["id"]: [*json.loads(row["context"]).items()]
            for row in rows
            if row["context"] is not None
        }
        return beside, {row["id"]: json.loads(row["fields"] or "{}") for row in rows}

    def _find_windows(self, texts: Sequence[str]) -> list[int | None]:
        """Return how many characters of each text the model reads, None where it reads all."""
        config = self._context.config
        most = config.model.max_prompt_tokens
        shots = [part for shot in config.prompt.few_shot for part in (shot.input, shot.output)]
        fixed = [config.prompt.system or "", config.prompt.template, *shots]
        # A token is a byte at least: where all texts are short, no tokenizer is loaded.
        room = most - sum(_count_bytes(part) + TURN_BYTES for part in fixed)
        if all(_count_bytes(text) <= room for text in texts):
            return [None] * len(texts)
        try:
            tokenizer = load_tokenizer(config.model)
            builder = PromptBuilder(tokenizer, config.prompt, most)
        except UserError:  # the step that needs the tokenizer says what is wrong with it
            return [None] * len(texts)
        return [builder.find_window(text) for text in texts]

    def _read_reasons(self) -> dict[str, dict[str, Any]]:
        """Return why each example was selected: strategy, rank, score and its parts, by id."""
        context = self._context
        path = f"{round_folder(context.round)}/selection.parquet"
        if not context.folder.exists(path):
            return {}
        strategy = context.config.selection.name_strategy(context.round)
        rows = context.folder.read_table(path).to_pylist()
        return {
            row["id"]: {
                "strategy": strategy,
                "rank": row["rank"],
                "score": row["score"],
                "parts": dict(row["parts"]),
            }
            for row in rows
        }


def _count_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
