"""Known answers as labels: the simulated annotator of benchmarks."""

from collections.abc import Mapping, Sequence

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.config import DatasetAnnotatorConfig
from atgen_ray.core.money import to_nano
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.ledger import Entry


class DatasetAnnotator:
    """Answers with the first reference of the dataset, at a price that is only counted, within the
    budget.
    """

    name = "dataset"

    def __init__(self, config: DatasetAnnotatorConfig, site: AnnotationContext) -> None:
        gold = site.folder.read_table("gold.parquet")
        self._price = config.price_per_label
        self._site = site
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
        self._site.progress(len(labels), len(ids))
        return labels, missing

    def _pay(self, ids: Sequence[str]) -> int:
        """Enters the price of labels in the ledger; how many of the first the budget allows."""
        site = self._site
        nano = to_nano(self._price)
        entries = [Entry(f"{self.name}-{id_}", id_, nano) for id_ in ids]
        with site.journal.leased_transaction(site.lease) as connection:
            paid = site.ledger.find(connection, [entry.key for entry in entries])  # before a kill
            count, limit = site.ledger.reserve(
                connection,
                site.round,
                self.name,
                [entry for entry in entries if entry.key not in paid],
            )
            site.ledger.settle(connection, dict.fromkeys((entry.key for entry in entries), nano))
        count += len(paid)
        site.note_limit(limit, len(ids) - count, nano)
        return count
