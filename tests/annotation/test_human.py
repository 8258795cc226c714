"""The human annotator without Ray: it waits for people, goes on after a stop, and shows them what
the model said.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.hooks import Hook, listen
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.annotator import AWAITING, HumanAnnotator
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.errors import RunStopped
from atgen_ray.core.records import FEATURES_SCHEMA, SELECTION_SCHEMA
from atgen_ray.notifications import NOTIFIED
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder


def annotator(
    desk: HumanDesk, storage: Path, progress: Any = lambda done, total: None
) -> HumanAnnotator:
    """As a controller that starts has it."""
    lease = desk.journal.acquire(desk.run, ProcessIdentity("controller"), 600, takeover=True)
    site = AnnotationContext(
        desk.config,
        desk.journal,
        lease,
        RunFolder(str(storage), desk.run),
        1,
        desk.texts,
        (),
        progress,
    )
    assert isinstance(desk.config.annotator, HumanAnnotatorConfig)
    return HumanAnnotator(desk.config.annotator, site)


def write_batch(desk: HumanDesk, storage: Path) -> None:
    """What the model said of the first example, and why both were picked."""
    folder = RunFolder(str(storage), desk.run)
    features = [
        {"id": "e00", "text": "the model's words"},
        {"id": "e01", "text": None, "error": "too long"},
    ]
    folder.write_table(
        "rounds/001/features.parquet", pa.Table.from_pylist(features, FEATURES_SCHEMA)
    )
    picks = [
        {"id": id_, "rank": rank, "score": 0.5, "parts": {"nll": 2.0}}
        for rank, id_ in enumerate(desk.texts, 1)
    ]
    folder.write_table(
        "rounds/001/selection.parquet", pa.Table.from_pylist(picks, SELECTION_SCHEMA)
    )


def test_a_stopped_run_goes_on_and_takes_answers_that_came_meanwhile(
    journal: Journal, tmp_path: Path
) -> None:
    desk = HumanDesk(journal, 2, price_per_label=0.5)
    write_batch(desk, tmp_path)

    def stop(done: int, total: int) -> None:
        raise RunStopped("stopped on request")

    ids, texts = list(desk.texts), list(desk.texts.values())
    with pytest.raises(RunStopped):
        annotator(desk, tmp_path, stop).annotate_batch(ids, texts)
    first, second = desk.queue("ann").lease(2)
    assert first["suggestion"] == {"source": "m", "round": 0, "text": "the model's words"}
    assert second["suggestion"] is None
    assert first["why"] == {"strategy": "huds", "rank": 1, "score": 0.5, "parts": {"nll": 2.0}}
    desk.queue("ann").answer("key-1", "e00", "submitted", "while nobody drove the run")

    heard: list[tuple[int, int]] = []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            annotator(desk, tmp_path, lambda *at: heard.append(at)).annotate_batch, ids, texts
        )
        deadline = time.monotonic() + 30
        while len(journal.annotations(desk.run)) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)  # a label is in the journal before the others are there
        # Until the run trains on it, an answer may be taken back and given anew.
        desk.queue("ann").undo("key-2", "e00")
        desk.queue("ann").answer("key-3", "e01", "submitted", "later")
        desk.queue("ann").answer("key-4", "e00", "submitted", "thought over")
        labels, dead = waiting.result(60)
    assert {label.id: (label.text, label.dollars) for label in labels} == {
        "e00": ("while nobody drove the run", 0.5),
        "e01": ("later", 0.5),
    }
    entered = {label.id: label.text for _, label in journal.annotations(desk.run)}
    assert entered == {"e00": "thought over", "e01": "later"}  # which count for the run
    assert dead == []
    assert heard[-1] == (2, 2)
    (event,) = [event for event in journal.events(desk.run) if event.kind == AWAITING]
    assert event.payload == {"tasks": 2, "notices": []}


def test_people_are_told_once_and_a_notice_that_fails_stops_nobody(
    journal: Journal, tmp_path: Path
) -> None:
    desk = HumanDesk(journal, 1, notice={"webhook": "http://127.0.0.1:9/hook"})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(annotator(desk, tmp_path).annotate_batch, ["e00"], ["text 0"])
        deadline = time.monotonic() + 30
        while not desk.queue("ann").lease() and time.monotonic() < deadline:
            time.sleep(0.05)
        desk.queue("ann").answer("key-1", "e00", "submitted", "yes")
        waiting.result(60)
    (event,) = [event for event in journal.events(desk.run) if event.kind == AWAITING]
    assert event.payload["tasks"] == 1
    assert event.payload["notices"][0].startswith("webhook failed")


def test_the_owner_is_told_once_of_tasks_that_nobody_answers(
    journal: Journal, tmp_path: Path
) -> None:
    with listen(Hook) as (port, heard), ThreadPoolExecutor(1) as pool:
        hook = f"http://127.0.0.1:{port}/hook"
        hours = 0.5 / 3600
        desk = HumanDesk(journal, 1, notify={"webhook": hook, "stalled_hours": hours})
        for _ in range(2):  # the second one as a controller that was started anew
            waiting = pool.submit(annotator(desk, tmp_path).annotate_batch, ["e00"], ["text 0"])
            deadline = time.monotonic() + 30
            while not heard and time.monotonic() < deadline:
                time.sleep(0.05)
            desk.queue("ann").lease()
            desk.queue("ann").answer(f"key-{_}", "e00", "submitted", "yes")
            waiting.result(60)
    ((_, body),) = heard
    assert (body["type"], body["run"], body["tasks"]) == ("run.stalled", desk.run, 1)
    assert body["text"].endswith("1 tasks are open")
    (event,) = journal.events(desk.run, kind=NOTIFIED)
    assert event.payload == {"occasion": "stalled", "outcomes": ["webhook sent"]}
