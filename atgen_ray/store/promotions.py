"""Which adapter of a run its name stands for: `<base>:<run>` answers with the promoted round.

Promotions are events of the run, so none is ever changed or lost: each names a round, or goes one
promotion back.
"""

from collections.abc import Iterable

from atgen_ray.core.errors import UserError
from atgen_ray.store.events import Event, enter_event, list_events
from atgen_ray.store.journal import Journal

PROMOTED = "promoted"  # kind of the event; without a round: back to the promotion before


def list_promotions(journal: Journal, run: str) -> list[Event]:
    """Return the events of promotions and of ways back, the oldest first."""
    return journal.events(run, kind=PROMOTED)


def stack_promotions(events: Iterable[Event]) -> list[Event]:
    """Return the promotions that are not taken back; the last one holds."""
    standing = list[Event]()
    for event in events:
        if event.round is not None:
            standing.append(event)
        elif standing:
            standing.pop()
    return standing


def find_promoted(journal: Journal, run: str) -> Event | None:
    """Return the promotion that holds, whose `round` is that of the adapter; None without one."""
    standing = stack_promotions(list_promotions(journal, run))
    return standing[-1] if standing else None


def enter_promotion(
    journal: Journal, run: str, round: int | None, before: Event | None, forced: bool
) -> None:
    """Enter that the adapter of `round` is promoted; None: that the promotion `before` it is
    taken back.

    Args:
        before: the promotion that held when this was decided.
        forced: it is promoted although its score is shown to be worse.

    Raises:
        UserError: there is no such run, or somebody has promoted another adapter meanwhile.
    """
    with journal.database.writing() as connection:
        journal.lock_driver(connection, run)
        standing = stack_promotions(list_events(connection, run, kind=PROMOTED))
        found = standing[-1] if standing else None
        if (found and found.sequence) != (before and before.sequence):
            raise UserError(
                f"run '{run}' got another promotion meanwhile: look at it, and ask again"
            )
        payload = {"forced": forced, "instead_of": before.round if before else None}
        enter_event(journal.database, connection, run, PROMOTED, round, payload=payload)
