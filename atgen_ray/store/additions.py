"""Rows that are added to the pool of a run: what waits in the inbox, and what the pool has taken.

- Whoever adds rows writes them to a part of the inbox, `inbox/<digest>.parquet`, and then enters an
  event "added" that names the part. What no event names does not exist.
- The controller takes all parts that wait into the pool as a step, `growth-1`, `growth-2` and so
  on, whose event names the parts. So each part is taken once, whoever dies when.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from atgen_ray.core.records import POOL_SCHEMA
from atgen_ray.store.events import STEP, Event, enter_event, list_events
from atgen_ray.store.journal import Journal

ADDED = "added"  # kind of the event
INBOX = "inbox"  # folder of the parts, in the run's folder
GROWTH = "growth-"  # beginning of the names of the steps that take rows into the pool
GROWN = "embedding-"  # the same of the steps that embed what was taken
PART = "part"  # keys of the payload of an event "added"
SOURCE = "source"
PARTS = "parts"  # keys of the payload of a growth
BEFORE = "before"  # rows of the pool before it

# A part of the inbox: examples, and what belongs to each of them.
PART_SCHEMA = pa.schema(
    [
        *POOL_SCHEMA,
        ("references", pa.list_(pa.string())),
        ("context", pa.string()),
        ("fields", pa.string()),
    ]
)


def enter_addition(journal: Journal, run: str, payload: dict[str, Any]) -> bool:
    """Enter that rows wait in the inbox, under the run's lock; return whether they are new: False
    where an event names the same part already.

    Raises:
        UserError: there is no such run.
    """
    with journal.database.writing() as connection:
        journal.lock_driver(connection, run)
        known = list_events(connection, run, kind=ADDED)
        if any(event.payload[PART] == payload[PART] for event in known):
            return False
        enter_event(journal.database, connection, run, ADDED, payload=payload)
    return True


def is_growth(event: Event) -> bool:
    """Return whether the event is of a step that took rows into the pool."""
    return event.kind == STEP and str(event.step).startswith(GROWTH)


def list_growths(events: Iterable[Event]) -> list[Event]:
    """Return the growths among events, in order."""
    return sorted(filter(is_growth, events), key=lambda event: event.sequence)


def list_waiting(events: Iterable[Event], growths: Iterable[Event]) -> list[Event]:
    """Return those of `events` that are "added" and whose part no growth has taken, in order."""
    taken = {part for event in growths for part in event.payload[PARTS]}
    return [event for event in events if event.kind == ADDED and event.payload[PART] not in taken]


def find_waiting(journal: Journal, run: str) -> list[Event]:
    """Return the events "added" of the run whose rows wait in the inbox."""
    added = journal.events(run, kind=ADDED)
    return list_waiting(added, list_growths(journal.steps(run))) if added else []


def list_sources(journal: Journal, run: str) -> list[str]:
    """Return where rows were read that were added to the run."""
    return [str(event.payload[SOURCE]) for event in journal.events(run, kind=ADDED)]


def describe_additions(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return what was added to a run by its events, the oldest first: `time` (seconds since 1970),
    `source`, `by`, how many rows were `offered` and `added`, how many not, and why (`known`,
    `test`, `repeated`, `unusable`, with the `reasons` of the last), and `round`, at whose beginning
    the pool took them; None: they wait.
    """
    growths = list_growths(events)
    rounds = {part: event.round for event in growths for part in event.payload[PARTS]}
    return [
        {"time": event.time, "round": rounds.get(event.payload[PART])}
        | {name: value for name, value in event.payload.items() if name != PART}
        for event in events
        if event.kind == ADDED
    ]


def describe_growths(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return what the pool took, by the events of a run: `round`, at whose beginning, `time`, the
    rows `before`, how many it `added`, how many of these are `near_duplicates`, and how many were
    `known` by then.
    """
    return [
        {"round": event.round, "time": event.time}
        | {key: event.payload[key] for key in (BEFORE, "added", "near_duplicates", "known")}
        for event in list_growths(events)
    ]
