"""Labels at a fixed price that is only counted: how they enter the ledger."""

from collections.abc import Sequence

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.core.money import to_nano
from atgen_ray.store.ledger import Entry


def buy_labels(
    context: AnnotationContext, annotator: str, ids: Sequence[str], dollars: float
) -> int:
    """Book the price of the labels in the ledger and return how many of the first ones the budget
    allows.
    """
    nano = to_nano(dollars)
    entries = [Entry(f"{annotator}-{id_}", id_, nano) for id_ in ids]
    with context.journal.leased_transaction(context.lease) as connection:
        # A process that was killed after this transaction has paid for these already.
        paid = context.ledger.find(connection, [entry.key for entry in entries])
        count, limit = context.ledger.reserve(
            connection,
            context.round,
            annotator,
            [entry for entry in entries if entry.key not in paid],
        )
        context.ledger.settle(connection, dict.fromkeys((entry.key for entry in entries), nano))
    count += len(paid)
    context.record_shortfall(limit, len(ids) - count, nano)
    return count
