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
        self._price = config.price_per_label
        self._context = context

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        rows = self._context.folder.read_rows("gold.parquet", ids)
        gold: Mapping[str, Sequence[str]] = {row["id"]: row["references"] for row in rows}
        known = [id_ for id_ in ids if gold.get(id_)]
        missing = [
            DeadLetter(id_, "annotation", "the dataset has no answer for it")
            for id_ in ids
            if id_ not in known
        ]
        bought = known[: buy_labels(self._context, self.name, known, self._price)]
        labels = [Annotation(id_, gold[id_][0], self.name, self._price) for id_ in bought]
        self._context.progress(len(labels), len(ids))
        return labels, missing
