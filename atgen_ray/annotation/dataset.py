"""Simulated annotator of benchmarks: it answers with the known references of the dataset."""

from collections.abc import Mapping, Sequence

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.pricing import buy_labels
from atgen_ray.config import DatasetAnnotatorConfig
from atgen_ray.core.records import Annotation, DeadLetter


class DatasetAnnotator:
    """Labels an example with its first reference. The price is only counted, and the budget
    holds.
    """

    name = "dataset"

    def __init__(self, config: DatasetAnnotatorConfig, context: AnnotationContext) -> None:
        gold = context.folder.read_table("gold.parquet")
        self._price = config.price_per_label
        self._context = context
        self._gold: Mapping[str, Sequence[str]] = dict(
            zip(gold["id"].to_pylist(), gold["references"].to_pylist(), strict=True)
        )

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        known = [id_ for id_ in ids if self._gold.get(id_)]
        missing = [
            DeadLetter(id_, "annotation", "the dataset has no answer for it")
            for id_ in ids
            if id_ not in known
        ]
        bought = known[: buy_labels(self._context, self.name, known, self._price)]
        labels = [Annotation(id_, self._gold[id_][0], self.name, self._price) for id_ in bought]
        self._context.progress(len(labels), len(ids))
        return labels, missing
