"""Labels at a fixed price that is only counted: how they enter the ledger."""

from collections.abc import Sequence

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.core.money import to_nano
from atgen_ray.store.ledger import Entry


def buy_labels(site: AnnotationContext, annotator: str, ids: Sequence[str], dollars: float) -> int:
    """Enters the price of labels in the ledger; how many of the first the budget allows.

    Labels that were entered before a kill are not paid for again.
    """
    nano = to_nano(dollars)
    entries = [Entry(f"{annotator}-{id_}", id_, nano) for id_ in ids]
    with site.journal.leased_transaction(site.lease) as connection:
        paid = site.ledger.find(connection, [entry.key for entry in entries])  # before a kill
        count, limit = site.ledger.reserve(
            connection,
            site.round,
            annotator,
            [entry for entry in entries if entry.key not in paid],
        )
        site.ledger.settle(connection, dict.fromkeys((entry.key for entry in entries), nano))
    count += len(paid)
    site.note_limit(limit, len(ids) - count, nano)
    return count
