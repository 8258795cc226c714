"""Records of runs: the configuration that each was given, and how far it came.

The functions work within a transaction: those that write, in one that holds the run's lock
(`atgen_ray/store/leases.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.store.database import Database
from atgen_ray.store.events import Event, find_last_message
from atgen_ray.store.tables import controllers, runs

Status = Literal["created", "running", "finished", "stopped", "failed"]
UNDER_WAY: tuple[Status, ...] = (
    "created",
    "running",
)  # statuses that a controller changes when it ends the run
INTERRUPTED = "interrupted"  # shown for a run whose controller died while the run was running
INTERRUPTION = (
    "its controller died; all that it had committed is saved, and the same command goes on from "
    "there, as does Resume on its page"
)


@dataclass(frozen=True)
class RunRecord:
    """A run with its configuration and status. Times are seconds since 1970 by the database's
    clock.
    """

    name: str
    config: dict[str, Any]
    digest: str
    status: Status
    created: float
    updated: float
    title: str | None = None
    archived: float | None = None
    served: bool | None = None


def explain_end(status: str, events: Sequence[Event]) -> str:
    """Return why a run with `status` ended: the last message among its `events`; empty while it
    goes on.

    `status` is that of `Journal.describe_status`, or of the run's record. The message of an earlier
    attempt does not count once a new one has started.
    """
    if status == INTERRUPTED:
        return INTERRUPTION
    return "" if status in UNDER_WAY else find_last_message(events)


def enter_run(
    database: Database, connection: sa.Connection, name: str, config: dict[str, Any], digest: str
) -> None:
    """Enter a run, unless there is one of that name."""
    now = database.clock(connection)
    run = {
        "name": name,
        "config": config,
        "digest": digest,
        "status": "created",
        "created": now,
        "updated": now,
    }
    connection.execute(database.insert_new(runs), run)
    # The row is there from the beginning, so that every write of the run can lock it.
    no_controller = {
        "run": name,
        "epoch": 0,
        "owner": None,
        "host": "",
        "machine": "",
        "pid": 0,
        "started": 0.0,
        "expires": 0.0,
        "stop_asked": False,
    }
    connection.execute(database.insert_new(controllers), no_controller)


def find_run(connection: sa.Connection, name: str) -> RunRecord | None:
    """Return the run of that name; None when there is none."""
    row = connection.execute(sa.select(runs).where(runs.c.name == name)).mappings().one_or_none()
    return None if row is None else RunRecord(**row)


def list_runs(connection: sa.Connection) -> list[RunRecord]:
    """Return all runs, the oldest first."""
    rows = connection.execute(sa.select(runs).order_by(runs.c.created, runs.c.name))
    return [RunRecord(**row) for row in rows.mappings()]


def change_status(
    database: Database,
    connection: sa.Connection,
    name: str,
    status: Status,
    only: Sequence[Status] | None = None,
) -> bool:
    """Set the status of the run, with `only` if it has one of these; return whether it was set."""
    mine = runs.c.name == name
    if only is not None:
        mine &= runs.c.status.in_(only)
    values = {"status": status, "updated": database.clock(connection)}
    return bool(connection.execute(sa.update(runs).where(mine).values(values)).rowcount)
