"""Who may write a run: one controller, which holds the run's lease, and under its lock the service.

- One controller drives a run and holds the run's lease. Each acquisition has a higher epoch, and
  every write checks in its own transaction that no later one exists (a fencing token: Kleppmann,
  Designing Data-Intensive Applications, ch. 8). Once another controller has taken the run, writes
  raise LeaseLostError and change nothing.
- Writes of one run follow one another under a lock on its row in `controllers`. So sequence numbers
  have no gaps, and a reader that has seen number n has seen all before it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from atgen_ray.core.errors import LeaseLostError, RunBusyError, UserError, nearest
from atgen_ray.store.database import Database
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import controllers, runs


@dataclass(frozen=True)
class Lease:
    """The right to write a run until another controller takes it. The holder renews it well before
    `ttl` seconds have passed.
    """

    journal: "LeasedDatabase" = field(repr=False)
    run: str
    owner: ProcessIdentity
    epoch: int
    ttl: float

    def renew(self) -> bool:
        """Move the expiry to `ttl` seconds from now; return whether the controller is asked to stop
        (`ask_to_stop`).

        Raises:
            LeaseLostError: another controller has taken the run.
        """
        with self.journal.leased_transaction(self) as connection:
            mine = controllers.c.run == self.run
            now = self.journal.database.clock(connection)
            connection.execute(sa.update(controllers).where(mine).values(expires=now + self.ttl))
            return connection.execute(sa.select(controllers.c.stop_asked).where(mine)).scalar_one()

    def release(self) -> None:
        """Free the run for the next controller; do nothing if another has taken it already."""
        mine = (controllers.c.run == self.run) & (controllers.c.epoch == self.epoch)
        with self.journal.database.writing() as connection:
            connection.execute(sa.update(controllers).where(mine).values(owner=None, expires=0.0))


class LeasedDatabase:
    """The database at `url`, in which each run has one writer at a time. Safe to use from threads,
    but not after a fork.

    Every method that takes a lease raises LeaseLostError and writes nothing once another controller
    has taken the run.
    """

    def __init__(self, url: str | sa.URL) -> None:
        """Open the database, with the errors of `Database`."""
        self.database = Database(url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.database!r})"

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def acquire(
        self, run: str, owner: ProcessIdentity, ttl: float, takeover: bool = False
    ) -> Lease:
        """Take the lease of the run for `ttl` seconds; every earlier lease is void from then on.

        The run must be free, expired, held by `owner.id` itself or by a process that is dead. With
        `takeover` it is taken from any holder.

        Raises:
            RunBusyError: another process holds it.
            UserError: there is no such run.
        """
        with self.database.writing() as connection:
            held = self._lock(connection, run)
            now = self.database.clock(connection)
            same = held.owner == owner.id
            if not same and not takeover and _is_alive(held, now):
                busy = RunBusyError(
                    f"run '{run}' is driven by process {held.pid} on host '{held.host}': stop "
                    f"that one, or wait; unless renewed, its lease expires in "
                    f"{math.ceil(held.expires - now)} s"
                )
                busy.expires = held.expires
                raise busy
            values = {
                "owner": owner.id,
                "host": owner.host,
                "machine": owner.machine,
                "pid": owner.pid,
                "started": owner.started,
                "epoch": held.epoch + 1,
                "expires": now + ttl,
                # A controller that Ray restarted under the same name is still asked to stop.
                "stop_asked": same and held.stop_asked,
            }
            connection.execute(
                sa.update(controllers).where(controllers.c.run == run).values(values)
            )
        return Lease(self, run, owner, held.epoch + 1, ttl)

    def ask_to_stop(self, run: str) -> bool:
        """Ask the run's controller to stop; return False when there is none.

        The controller notices when it renews its lease.
        """
        with self.database.writing() as connection:
            driven = self.lock_driver(connection, run) is not None
            connection.execute(
                sa.update(controllers).where(controllers.c.run == run).values(stop_asked=driven)
            )
        return driven

    def has_live_controller(self, run: str) -> bool:
        """Return whether a controller holds the run's lease and may still be at work."""
        query = sa.select(controllers).where(controllers.c.run == run)
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
            return row is not None and _is_alive(row, self.database.clock(connection))

    def is_asked_to_stop(self, run: str) -> bool:
        """Return whether the run's controller was asked to stop and has not done so."""
        query = sa.select(controllers.c.stop_asked).where(controllers.c.run == run)
        with self.database.reading() as connection:
            return bool(connection.execute(query).scalar_one_or_none())

    @contextmanager
    def leased_transaction(self, lease: Lease) -> Iterator[sa.Connection]:
        """Open a transaction that writes the run of `lease`, and no other does at the same time.

        Raises:
            LeaseLostError: `lease` is not the current lease of the run.
        """
        with self.database.writing() as connection:
            held = self._lock(connection, lease.run)
            if (held.epoch, held.owner) != (lease.epoch, lease.owner.id):
                taken = (
                    f"taken by process {held.pid} on host '{held.host}'"
                    if held.owner
                    else "released"
                )
                raise LeaseLostError(f"the lease {lease.epoch} of run '{lease.run}' was {taken}")
            yield connection

    @contextmanager
    def run_transaction(self, run: str) -> Iterator[sa.Connection]:
        """Open a transaction that writes what people and the run's controller share, such as tasks.

        Raises:
            UserError: there is no such run.
        """
        with self.database.writing() as connection:
            self._lock(connection, run)
            yield connection

    def lock_driver(self, connection: sa.Connection, run: str) -> sa.Row[Any] | None:
        """Lock the run for this transaction, and return the row in `controllers` of the controller
        that drives it; None where there is none, or it is dead.

        Raises:
            UserError: there is no such run.
        """
        held = self._lock(connection, run)
        return held if _is_alive(held, self.database.clock(connection)) else None

    def _lock(self, connection: sa.Connection, run: str) -> sa.Row[Any]:
        """Lock the run for this transaction and return its row of `controllers`."""
        query = sa.select(controllers).where(controllers.c.run == run).with_for_update()
        if (row := connection.execute(query).one_or_none()) is None:
            raise explain_unknown(connection, run)
        return row


def explain_unknown(connection: sa.Connection, run: str) -> UserError:
    """Return the error that there is no `run`, with the nearest name that there is."""
    names = connection.execute(sa.select(runs.c.name)).scalars().all()
    return UserError(
        f"run '{run}' is unknown{nearest(run, names) if names else '; there are none yet'}"
    )


def _is_alive(held: sa.Row[Any], now: float) -> bool:
    """Return whether the holder in a row of `controllers` may still be at work."""
    if held.owner is None or held.expires <= now:
        return False
    return not ProcessIdentity(
        held.owner, held.host, held.pid, held.started, held.machine
    ).is_dead()
