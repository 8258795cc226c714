"""The dataset annotator: known answers, at a price that is counted and kept within the budget."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from annotation_desk import quiet

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.registry import build_annotator
from atgen_ray.config.loading import parse_config
from atgen_ray.core.records import GOLD_SCHEMA, Annotation, DeadLetter
from atgen_ray.store.journal import open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

ROWS = [{"id": "a", "references": ["one", "uno"]}, {"id": "b", "references": ["two"]}]


def annotate(
    folder: Path, ids: list[str], stopping: Mapping[str, float]
) -> tuple[list[Annotation], list[DeadLetter]]:
    tree = {
        "data": {"pool": "p", "references": "a"},
        "model": {"id": "m"},
        "annotator": {"price_per_label": 0.25},
    }
    config = parse_config(tree | {"stopping": dict(stopping)})
    journal, run = open_journal(str(folder)), RunFolder(str(folder), config.name)
    journal.create_run(config.name, {}, "")
    run.write_table("gold.parquet", pa.Table.from_pylist(ROWS, GOLD_SCHEMA))
    lease = journal.acquire(config.name, ProcessIdentity("a"), 60)
    annotator = build_annotator(
        config.annotator, AnnotationContext(config, journal, lease, run, 1, {}, [], quiet)
    )
    return annotator.annotate_batch(ids, ids)


def test_labels_are_the_first_references_at_their_price(tmp_path: Path) -> None:
    labels, dead = annotate(tmp_path, ["b", "a"], {})
    assert [(label.id, label.text, label.annotator, label.dollars) for label in labels] == [
        ("b", "two", "dataset", 0.25),
        ("a", "one", "dataset", 0.25),
    ]
    assert dead == []
    assert annotate(tmp_path, ["b", "a"], {}) == (labels, dead)  # after a kill


def test_an_example_without_answer_is_a_dead_letter(tmp_path: Path) -> None:
    labels, dead = annotate(tmp_path, ["c", "a"], {})
    assert [label.id for label in labels] == ["a"]
    assert [(letter.id, letter.step) for letter in dead] == [("c", "annotation")]


def test_the_budget_ends_the_labels(tmp_path: Path) -> None:
    labels, dead = annotate(tmp_path, ["b", "a"], {"dollars": 0.4})
    assert ([label.id for label in labels], dead) == (["b"], [])
    events = open_journal(str(tmp_path)).events("run")
    assert [event.payload for event in events if event.kind == "budget"] == [
        {"limit": "run", "dollars": 0.4, "left": 1}
    ]
