"""Simulated annotator of benchmarks: it answers with the known references of the dataset."""

from collections.abc import Mapping, Sequence

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.config import DatasetAnnotatorConfig
from atgen_ray.core.money import to_nano
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.ledger import Entry


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
        bought = known[: self._pay(known)]
        labels = [Annotation(id_, self._gold[id_][0], self.name, self._price) for id_ in bought]
        self._context.progress(len(labels), len(ids))
        return labels, missing

    def _pay(self, ids: Sequence[str]) -> int:
        """Book the price of the labels in the ledger and return how many of the first ones the
        budget allows.
        """
        context = self._context
        nano = to_nano(self._price)
        entries = [Entry(f"{self.name}-{id_}", id_, nano) for id_ in ids]
        with context.journal.leased_transaction(context.lease) as connection:
            # A process that was killed after this transaction has paid for these already.
            paid = context.ledger.find(connection, [entry.key for entry in entries])
            count, limit = context.ledger.reserve(
                connection,
                context.round,
                self.name,
                [entry for entry in entries if entry.key not in paid],
            )
            context.ledger.settle(connection, dict.fromkeys((entry.key for entry in entries), nano))
        count += len(paid)
        context.record_shortfall(limit, len(ids) - count, nano)
        return count
