"""A queue that nobody works on: the run's owner is told once a round."""

import sqlalchemy as sa

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.core.machine import machine
from atgen_ray.notifications import NOTIFIED, Stall, tell_owner
from atgen_ray.store.tables import assignments

LOOK_SECONDS = 60.0
HOUR = 3600.0  # seconds


class StallWatch:
    """Tells the owner of a run, as `notify` has it, when no answer has come for long.

    A controller that was started anew waits its full time again: it cannot know how long people
    were kept from the pages.
    """

    def __init__(self, context: AnnotationContext) -> None:
        self._context = context
        notify = context.config.notify
        self._hours = notify.stalled_hours if notify and "stalled" in notify.events else None
        self._since = self._next = machine().monotonic()
        if self._hours is not None:
            told = context.journal.events(context.config.name, kind=NOTIFIED)
            if any(
                (event.round, event.payload["occasion"]) == (context.round, "stalled")
                for event in told
            ):
                self._hours = None

    def look(self, left: int) -> None:
        """Tell the owner if nobody has answered for long; `left` tasks are open."""
        now = machine().monotonic()
        if self._hours is None or now < self._next:
            return
        self._next = now + min(LOOK_SECONDS, self._hours * HOUR)
        if min(now - self._since, self._find_silence()) < self._hours * HOUR:
            return
        context = self._context
        config = context.config
        hours = self._hours
        self._hours = None  # once a round
        tell_owner(
            config,
            context.journal,
            context.lease,
            "stalled",
            lambda page: Stall(config.name, context.round, left, hours, page),
            context.round,
        )

    def _find_silence(self) -> float:
        """Return the seconds since the last answer in the run."""
        database = self._context.journal.database
        query = sa.select(sa.func.max(assignments.c.answered)).where(
            assignments.c.run == self._context.config.name
        )
        with database.reading() as connection:
            last = connection.execute(query).scalar_one()
            return float("inf") if last is None else database.clock(connection) - last
