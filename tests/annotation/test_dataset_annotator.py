"""The dataset annotator: known answers, at a price that is counted."""

import pyarrow as pa

from atgen_ray.annotation import build_annotator
from atgen_ray.config import DatasetAnnotatorConfig
from atgen_ray.records import GOLD_SCHEMA

ROWS = [{"id": "a", "references": ["one", "uno"]}, {"id": "b", "references": ["two"]}]
GOLD = pa.Table.from_pylist(ROWS, GOLD_SCHEMA)


def test_labels_are_the_first_references_at_their_price() -> None:
    annotator = build_annotator(DatasetAnnotatorConfig(price_per_label=0.25), GOLD)
    labels, dead = annotator.annotate_batch(["b", "a"], ["text b", "text a"])
    assert [(label.id, label.text, label.annotator, label.dollars) for label in labels] == [
        ("b", "two", "dataset", 0.25),
        ("a", "one", "dataset", 0.25),
    ]
    assert dead == []


def test_an_example_without_answer_is_a_dead_letter() -> None:
    labels, dead = build_annotator(DatasetAnnotatorConfig(), GOLD).annotate_batch(["c", "a"], ["text c", "text a"])
    assert [label.id for label in labels] == ["a"]
    assert [(letter.id, letter.step) for letter in dead] == [("c", "annotation")]
