"""Annotators label query batches; `ANNOTATORS` names them."""

from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from atgen_ray.annotation.dataset import DatasetAnnotator
from atgen_ray.config import DatasetAnnotatorConfig
from atgen_ray.records import Annotation, DeadLetter


class Annotator(Protocol):
    """Labels examples. A label that was returned once is never asked for again: the journal keeps it."""

    name: str

    def annotate_batch(self, ids: list[str], texts: list[str]) -> tuple[list[Annotation], list[DeadLetter]]:
        """A label for each example, in any order, or the reason why it has none."""
        ...


ANNOTATORS: dict[str, Callable[[DatasetAnnotatorConfig, pa.Table], Annotator]] = {"dataset": DatasetAnnotator}


def build_annotator(config: DatasetAnnotatorConfig, gold: pa.Table) -> Annotator:
    """The annotator that the configuration asks for; only `dataset` looks at the known answers in `gold`."""
    return ANNOTATORS[config.type](config, gold)
