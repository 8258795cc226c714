"""Events of runs: what happened to a run, in order, without gaps.

A step of a run is done when its event of kind "step" is there; entering it twice changes nothing.
The functions work within a transaction: those that write, in one that holds the run's lock
(`atgen_ray/store/leases.py`), so that a reader who has seen number n has seen all before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.store.database import Database
from atgen_ray.store.tables import events

STEP = "step"  # a step of a round is committed
CHANGED = "changed"  # the run was given other settings
REMOVED = "removed"  # outputs that were removed on purpose
RESTORED = "restored"  # the journal is a backup, and what came after it is not known
WARNING = "warning"  # something went wrong that does not keep the run from going on
REQUESTED = "requested"  # somebody asked over HTTP that the run start or go on
HANDED_OVER = "handed-over"  # a service ended, and its controller freed the run
RESUMED = "resumed"  # a service goes on with a run whose controller died


@dataclass(frozen=True)
class Event:
    """An event of a run. `sequence` counts from 1 without gaps; `time` is in seconds since 1970;
    `seconds` is how long the step took.
    """

    run: str
    sequence: int
    kind: str
    round: int | None
    step: str | None
    payload: dict[str, Any]
    seconds: float | None
    time: float

    @property
    def is_step(self) -> bool:
        """Return whether the event commits a step of the run."""
        return self.kind == STEP


def enter_event(
    database: Database,
    connection: sa.Connection,
    run: str,
    kind: str,
    round: int | None = None,
    step: str | None = None,
    payload: dict[str, Any] | None = None,
    seconds: float | None = None,
) -> Event:
    """Enter an event and return it.

    A second event of kind "step" for the same round and step returns the first, unchanged.
    """
    mine = events.c.run == run
    if kind == STEP:
        # A controller that died after the commit repeats the step: the first event counts.
        same = mine & (events.c.kind == kind) & (events.c.step == step)
        same &= events.c.round.is_(None) if round is None else events.c.round == round
        if first := connection.execute(sa.select(events).where(same)).mappings().one_or_none():
            return Event(**first)
    entry = {
        "run": run,
        "sequence": find_last_sequence(connection, run) + 1,
        "kind": kind,
        "round": round,
        "step": step,
        "payload": payload or {},
        "seconds": seconds,
        "time": database.clock(connection),
    }
    connection.execute(sa.insert(events).values(entry))
    # The event is read back, so that its payload has passed through JSON as after a replay.
    stored = sa.select(events).where(mine & (events.c.sequence == entry["sequence"]))
    return Event(**connection.execute(stored).mappings().one())


def find_last_sequence(connection: sa.Connection, run: str) -> int:
    """Return the sequence number of the run's last event; 0 before the first."""
    last = sa.select(sa.func.max(events.c.sequence)).where(events.c.run == run)
    return connection.execute(last).scalar_one() or 0


def find_last_time(connection: sa.Connection, run: str) -> float | None:
    """Return the time of the run's last event; None before the first."""
    last = sa.select(sa.func.max(events.c.time)).where(events.c.run == run)
    return connection.execute(last).scalar_one()


def list_events(
    connection: sa.Connection,
    run: str,
    after: int = 0,
    kind: str | Sequence[str] | None = None,
    limit: int | None = None,
) -> list[Event]:
    """Return the run's events with a sequence number above `after`, in order; with `kind` only
    those of that kind, or of these kinds, with `limit` so many at most.
    """
    matching = (events.c.run == run) & (events.c.sequence > after)
    if kind is not None:
        matching &= events.c.kind.in_([kind] if isinstance(kind, str) else kind)
    query = sa.select(events).where(matching).order_by(events.c.sequence).limit(limit)
    return [Event(**row) for row in connection.execute(query).mappings()]


def list_last_events(connection: sa.Connection, run: str, count: int) -> list[Event]:
    """Return the last `count` events of the run, the newest first."""
    query = sa.select(events).where(events.c.run == run)
    rows = connection.execute(query.order_by(events.c.sequence.desc()).limit(count))
    return [Event(**row) for row in rows.mappings()]


def find_last_message(events: Sequence[Event]) -> str:
    """Return the last message among `events`; empty where none has one."""
    messages = (event.payload.get("message") for event in reversed(events))
    return str(next((message for message in messages if message), ""))


def find_last_round(connection: sa.Connection, run: str, step: str) -> int | None:
    """Return the last round whose `step` is committed; None where there is none."""
    mine = (events.c.run == run) & (events.c.kind == STEP) & (events.c.step == step)
    found = connection.execute(sa.select(sa.func.max(events.c.round)).where(mine)).scalar()
    return None if found is None else int(found)
