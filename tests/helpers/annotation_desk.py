"""A run's annotation step without Ray: a journal, a stand-in provider, and one round of
examples.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.llm.annotator import LLMAnnotator
from atgen_ray.annotation.llm.error_policy import Timeouts
from atgen_ray.annotation.registry import build_remote
from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.records import Annotation, DeadLetter, Progress
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from helpers.fakes.provider import FakeProvider

QUICK = Timeouts(
    outage=5.0,
    first_wait=0.02,
    longest_wait=0.1,
    lookup=0.2,
    poll=0.02,
    batch=60.0,
    cancelling=5.0,
    drain=1.0,
    call=5.0,
    missing=0.5,
)
PRICE = {"input": 1000.0, "output": 1000.0, "batch_discount": 0.0}  # a tenth of a cent a token
MODES = [("openai", "sync"), ("openai", "batch"), ("anthropic", "sync"), ("anthropic", "batch")]


def quiet(done: int, total: int) -> None: ...


def make_texts(count: int) -> dict[str, str]:
    """Examples by id."""
    return {f"e{index:03d}": f"text number {index}" for index in range(count)}


def configure(
    provider: FakeProvider,
    kind: str,
    mode: str,
    stopping: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunConfig:
    """A run whose annotator is the stand-in."""
    places = {
        "anthropic": provider.url,
        "gemini": f"{provider.url}/v1beta/openai",
        "azure": f"{provider.url}/openai/v1",
    }
    url = places.get(kind, provider.openai)
    if kind == "azure":
        kind = "openai"
        settings = {"dialect": "azure", "recovery": "none", **settings}
    annotator: dict[str, Any] = {
        "type": kind,
        "mode": mode,
        "model": "fake",
        "base_url": url,
        "price": PRICE,
        "guidelines": "Label it.",
    }
    annotator |= {"concurrency": 4, "timeout_seconds": 2.0, "max_output_tokens": 20}
    annotator |= {"recovery": "stored"} if kind == "openai" else {}  # that `settings` may change
    tree = {
        "data": {"pool": "p.jsonl"},
        "model": {"id": "m"},
        "name": "paid",
        "stopping": dict(stopping or {}),
    }
    return parse_config(tree | {"annotator": annotator | settings})


@dataclass
class Desk:
    """One round of annotation, which may be tried again and again like a run that is resumed."""

    provider: FakeProvider
    folder: Path
    config: RunConfig
    texts: Mapping[str, str]
    patience: Timeouts = QUICK
    labeled: Sequence[Annotation] = ()
    progress: Progress = quiet
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(f"sqlite:///{self.folder / 'atgen.db'}")
        self.journal.create_run(self.config.name, dump_config(self.config), "")

    def site(self, round: int = 1) -> AnnotationContext:
        """The round's site under a new lease, as a controller that starts has it."""
        lease = self.journal.acquire(self.config.name, ProcessIdentity(f"desk-{os.getpid()}"), 600)
        folder = RunFolder(str(self.folder), self.config.name)
        return AnnotationContext(
            self.config, self.journal, lease, folder, round, self.texts, self.labeled, self.progress
        )

    def annotator(self, round: int = 1) -> LLMAnnotator:
        return build_remote(self.config.annotator, self.site(round), "annotator", self.patience)  # type: ignore[arg-type]

    def annotate(
        self, round: int = 1, ids: Sequence[str] | None = None
    ) -> tuple[dict[str, Annotation], dict[str, DeadLetter]]:
        """Labels and dead letters by example."""
        chosen = list(self.texts) if ids is None else [*ids]
        labels, dead = self.annotator(round).annotate_batch(
            chosen, [self.texts[id_] for id_ in chosen]
        )
        return {label.id: label for label in labels}, {letter.id: letter for letter in dead}
