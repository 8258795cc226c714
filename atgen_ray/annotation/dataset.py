"""Known answers as labels: the simulated annotator of benchmarks."""

import pyarrow as pa

from atgen_ray.config import DatasetAnnotatorConfig
from atgen_ray.records import Annotation, DeadLetter


class DatasetAnnotator:
    """Answers with the first reference of the dataset, at a price that is only counted."""

    name = "dataset"

    def __init__(self, config: DatasetAnnotatorConfig, gold: pa.Table) -> None:
        self._price = config.price_per_label
        self._gold = dict(zip(gold["id"].to_pylist(), gold["references"].to_pylist(), strict=True))

    def annotate_batch(self, ids: list[str], texts: list[str]) -> tuple[list[Annotation], list[DeadLetter]]:
        labels, missing = [], []
        for id_ in ids:
            references = self._gold.get(id_)
            if references:
                labels.append(Annotation(id_, references[0], self.name, self._price))
            else:
                missing.append(DeadLetter(id_, "annotation", "the dataset has no answer for it"))
        return labels, missing
