"""Notifications of the owner of a run, as its section `notify` has it."""

from collections.abc import Callable

from atgen_ray.config import RunConfig
from atgen_ray.config.notifications import Occasion
from atgen_ray.notifications.channels import Message, send_message
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease

NOTIFIED = "notified"  # kind of the event: the owner was told


def tell_owner(
    config: RunConfig,
    journal: Journal,
    lease: Lease,
    occasion: Occasion,
    write: Callable[[str | None], Message],
    round: int | None = None,
) -> None:
    """Send the message that `write` makes of the address of the run's page, if the owner wants to
    be told of `occasion`; enter in the journal what became of it.

    A controller that dies between the two sends it again.
    """
    notify = config.notify
    if notify is None or occasion not in notify.events:
        return
    page = f"{notify.service.rstrip('/')}/runs/{config.name}" if notify.service else None
    outcomes = send_message(notify, write(page))
    journal.append(lease, NOTIFIED, round, payload={"occasion": occasion, "outcomes": outcomes})
