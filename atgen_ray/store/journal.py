"""Journal of runs: the events in order, the lease of the controller, and every annotation once.

- One controller drives a run and holds the run's lease. Each acquisition has a higher epoch, and
  every write checks in its own transaction that no later one exists (a fencing token: Kleppmann,
  Designing Data-Intensive Applications, ch. 8). Once another controller has taken the run, writes
  raise LeaseLostError and change nothing.
- Writes of one run follow one another under a lock on its row in `controllers`. So sequence numbers
  have no gaps, and a reader that has seen number n has seen all before it.
- A step is done when its event of kind "step" is in the journal; entering it twice changes nothing.

A controller uses it so:

    lease = journal.acquire("demo", ProcessIdentity("me"), ttl=30)
    journal.append(lease, "step", round=1, step="selection", payload={"picks": 10})
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from fsspec.implementations.local import LocalFileSystem
from pydantic import SecretStr

from atgen_ray.core.errors import LeaseLostError, RunBusyError, UserError, nearest
from atgen_ray.core.names import check_run_name
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.database import Database
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import open_storage
from atgen_ray.store.tables import annotations, controllers, dead_letters, events, runs
from atgen_ray.store.totals import NewLabel, RunTotals, add_labels, count_by_round, list_totals

Status = Literal["created", "running", "finished", "stopped", "failed"]
STEP = "step"  # an event: a step of a round is committed
CHANGED = "changed"  # an event: the run was given other settings
REMOVED = "removed"  # an event: outputs that were removed on purpose
RESTORED = "restored"  # an event: the journal is a backup, and what came after it is not known
WARNING = "warning"  # an event: something went wrong that does not keep the run from going on
INTERRUPTED = "interrupted"  # shown for a run whose controller died while the run was running
INTERRUPTION = (
    "its controller died; all that it had committed is saved, and the same command goes on from "
    "there, as does Resume on its page"
)
REQUESTED = "requested"  # an event: somebody asked over HTTP that the run start or go on
HANDED_OVER = "handed-over"  # an event: a service ended, and its controller freed the run
RESUMED = "resumed"  # an event: a service goes on with a run whose controller died
UNDER_WAY = ("created", "running")  # statuses that a controller changes when it ends the run
PAGE = 5_000  # labels that a scan holds at once
START_SECONDS = 120.0  # how long a run that was created may wait for its controller


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


def explain_end(status: str, events: Sequence[Event]) -> str:
    """Return why a run with `status` ended: the last message among its `events`; empty while it
    goes on.

    `status` is that of `Journal.describe_status`, or of the run's record. The message of an earlier
    attempt does not count once a new one has started.
    """
    if status == INTERRUPTED:
        return INTERRUPTION
    if status in ("created", "running"):
        return ""
    messages = (event.payload.get("message") for event in reversed(events))
    return str(next((message for message in messages if message), ""))


@dataclass(frozen=True)
class Lease:
    """The right to write a run until another controller takes it. The holder renews it well before
    `ttl` seconds have passed.
    """

    journal: "Journal" = field(repr=False)
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


class Journal:
    """The journal in the database at `url`. Safe to use from threads, but not after a fork.

    Every method that takes a lease raises LeaseLostError and writes nothing once another controller
    has taken the run.
    """

    def __init__(self, url: str | sa.URL) -> None:
        """Open the database, with the errors of `Database`."""
        self.database = Database(url)

    def __repr__(self) -> str:
        return f"Journal({self.database!r})"

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def create_run(self, name: str, config: dict[str, Any], digest: str) -> RunRecord:
        """Enter a run, or find the run of that name; return its record.

        A run that exists stays as it is: the caller compares the record's digest with its own.

        Raises:
            UserError: `name` is not a valid name of a run.
        """
        check_run_name(name)
        with self.database.writing() as connection:
            now = self.database.clock(connection)
            run = {
                "name": name,
                "config": config,
                "digest": digest,
                "status": "created",
                "created": now,
                "updated": now,
            }
            connection.execute(self.database.insert_new(runs), run)
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
            connection.execute(self.database.insert_new(controllers), no_controller)
        return self.run(name)

    def change_run(
        self, name: str, config: dict[str, Any], digest: str, payload: dict[str, Any]
    ) -> None:
        """Give a run another configuration; `payload` of the event "changed" says what changed and
        who did it.

        Raises:
            RunBusyError: a controller drives the run, and would not notice the change.
        """
        with self.database.writing() as connection:
            held = self._lock(connection, name)
            if _has_live_controller(held, self.database.clock(connection)):
                raise RunBusyError(
                    f"run '{name}' is driven by process {held.pid} on host '{held.host}' with "
                    f"other settings: stop it "
                    f"first, as by `atgen-ray runs stop {name}`, then give it these"
                )
            connection.execute(
                sa.update(runs).where(runs.c.name == name).values(config=config, digest=digest)
            )
            self.enter_event(connection, name, CHANGED, payload=payload)

    def note_restored(self, name: str) -> None:
        """Enter that the journal is a backup of `name`, which has run further since: before
        anything is sent, the run looks whether its provider has it already.

        Raises:
            RunBusyError: a controller drives the run.
        """
        with self.database.writing() as connection:
            held = self._lock(connection, name)
            if _has_live_controller(held, self.database.clock(connection)):
                raise RunBusyError(f"run '{name}' is driven by process {held.pid}: stop it first")
            last = sa.select(sa.func.max(events.c.time)).where(events.c.run == name)
            since = connection.execute(last).scalar_one()
            if since is not None:
                self.enter_event(connection, name, RESTORED, payload={"since": since})

    def note_removed(self, name: str, outputs: Sequence[str]) -> None:
        """Enter that outputs of a finished run are about to be removed, as nobody wants them."""
        with self.run_transaction(name) as connection:
            self.enter_event(connection, name, REMOVED, payload={"outputs": [*outputs]})

    def note_requested(self, name: str, request: str) -> None:
        """Enter that the HTTP request of the id `request` started the run or let it go on."""
        with self.run_transaction(name) as connection:
            self.enter_event(connection, name, REQUESTED, payload={"request_id": request})

    def run(self, name: str) -> RunRecord:
        """Return the run of that name; raise UserError when there is none."""
        record = self.find_run(name)
        if record is None:
            raise self._unknown(name)
        return record

    def find_run(self, name: str) -> RunRecord | None:
        """Return the run of that name; None when there is none."""
        with self.database.reading() as connection:
            row = (
                connection.execute(sa.select(runs).where(runs.c.name == name))
                .mappings()
                .one_or_none()
            )
        return None if row is None else RunRecord(**row)

    def has_run(self, name: str) -> bool:
        """Return whether there is a run of that name."""
        with self.database.reading() as connection:
            return (
                connection.execute(sa.select(runs.c.name).where(runs.c.name == name)).first()
                is not None
            )

    def runs(self) -> list[RunRecord]:
        """Return all runs, the oldest first."""
        with self.database.reading() as connection:
            rows = connection.execute(sa.select(runs).order_by(runs.c.created, runs.c.name))
            return [RunRecord(**row) for row in rows.mappings()]

    def totals(self) -> list[RunTotals]:
        """Return the totals of all runs, the oldest first; the cost does not grow with their
        labels.
        """
        with self.database.reading() as connection:
            return list_totals(connection)

    def total(self, run: str) -> RunTotals:
        """Return the totals of one run; raise UserError when there is none of that name."""
        with self.database.reading() as connection:
            found = list_totals(connection, run)
        if not found:
            raise self._unknown(run)
        return found[0]

    def count_labels(self, run: str) -> dict[int, int]:
        """Return the number of labels of each round that has any."""
        with self.database.reading() as connection:
            return count_by_round(connection, run)

    def set_status(self, lease: Lease, status: Status) -> None:
        """Set the status of the run."""
        with self.leased_transaction(lease) as connection:
            values = {"status": status, "updated": self.database.clock(connection)}
            connection.execute(sa.update(runs).where(runs.c.name == lease.run).values(values))

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
            if not same and not takeover and _has_live_controller(held, now):
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
            held = self._lock(connection, run)
            driven = _has_live_controller(held, self.database.clock(connection))
            connection.execute(
                sa.update(controllers).where(controllers.c.run == run).values(stop_asked=driven)
            )
        return driven

    def has_live_controller(self, run: str) -> bool:
        """Return whether a controller holds the run's lease and may still be at work."""
        with self.database.reading() as connection:
            held = connection.execute(
                sa.select(controllers).where(controllers.c.run == run)
            ).one_or_none()
            return held is not None and _has_live_controller(held, self.database.clock(connection))

    def is_asked_to_stop(self, run: str) -> bool:
        """Return whether the run's controller was asked to stop and has not done so."""
        query = sa.select(controllers.c.stop_asked).where(controllers.c.run == run)
        with self.database.reading() as connection:
            return bool(connection.execute(query).scalar_one_or_none())

    def end_undriven(self, run: str, message: str) -> bool:
        """End a run that is under way and has no controller, with the status stopped; return
        whether it did.
        """
        with self.database.writing() as connection:
            held = self._lock(connection, run)
            now = self.database.clock(connection)
            mine = (runs.c.name == run) & runs.c.status.in_(UNDER_WAY)
            if _has_live_controller(held, now):
                return False
            values = {"status": "stopped", "updated": now}
            if not connection.execute(sa.update(runs).where(mine).values(values)).rowcount:
                return False
            self.enter_event(connection, run, "stopped", payload={"message": message})
        return True

    def describe_status(self, record: RunRecord | RunTotals) -> str:
        """Return the run's status; `interrupted` when it is under way by its status, but its
        controller died or never came.
        """
        if record.status not in UNDER_WAY or self.has_live_controller(record.name):
            return record.status
        if record.status == "created":
            changed = record.changed if isinstance(record, RunTotals) else record.updated
            with self.database.reading() as connection:
                if self.database.clock(connection) - changed < START_SECONDS:
                    return record.status
        return INTERRUPTED

    def append(
        self,
        lease: Lease,
        kind: str,
        round: int | None = None,
        step: str | None = None,
        payload: dict[str, Any] | None = None,
        seconds: float | None = None,
    ) -> Event:
        """Enter an event and return it.

        A second event of kind "step" for the same round and step returns the first, unchanged.
        """
        if kind == STEP and step is None:
            raise ValueError("an event of kind 'step' names its step")
        with self.leased_transaction(lease) as connection:
            return self.enter_event(connection, lease.run, kind, round, step, payload, seconds)

    def enter_event(
        self,
        connection: sa.Connection,
        run: str,
        kind: str,
        round: int | None = None,
        step: str | None = None,
        payload: dict[str, Any] | None = None,
        seconds: float | None = None,
    ) -> Event:
        """Enter an event as `append` does, within a transaction that holds the run's lock."""
        mine = events.c.run == run
        if kind == STEP:
            # A controller that died after the commit repeats the step: the first event counts.
            same = mine & (events.c.kind == kind) & (events.c.step == step)
            same &= events.c.round.is_(None) if round is None else events.c.round == round
            if first := connection.execute(sa.select(events).where(same)).mappings().one_or_none():
                return Event(**first)
        last = connection.execute(
            sa.select(sa.func.max(events.c.sequence)).where(mine)
        ).scalar_one()
        entry = {
            "run": run,
            "sequence": (last or 0) + 1,
            "kind": kind,
            "round": round,
            "step": step,
            "payload": payload or {},
            "seconds": seconds,
            "time": self.database.clock(connection),
        }
        connection.execute(sa.insert(events).values(entry))
        # The event is read back, so that its payload has passed through JSON as after a replay.
        stored = sa.select(events).where(mine & (events.c.sequence == entry["sequence"]))
        return Event(**connection.execute(stored).mappings().one())

    def last_sequence(self, run: str) -> int:
        """Return the sequence number of the run's last event; 0 before the first."""
        with self.database.reading() as connection:
            last = sa.select(sa.func.max(events.c.sequence)).where(events.c.run == run)
            return connection.execute(last).scalar_one() or 0

    def events(
        self, run: str, after: int = 0, kind: str | None = None, limit: int | None = None
    ) -> list[Event]:
        """Return the run's events with a sequence number above `after`, in order; with `kind` only
        those of that kind, with `limit` so many at most.
        """
        matching = (events.c.run == run) & (events.c.sequence > after)
        if kind is not None:
            matching &= events.c.kind == kind
        query = sa.select(events).where(matching).order_by(events.c.sequence).limit(limit)
        with self.database.reading() as connection:
            rows = connection.execute(query)
            return [Event(**row) for row in rows.mappings()]

    def last_events(self, connection: sa.Connection, run: str, count: int) -> list[Event]:
        """Return the last `count` events of the run, the newest first, within a transaction."""
        query = sa.select(events).where(events.c.run == run)
        rows = connection.execute(query.order_by(events.c.sequence.desc()).limit(count))
        return [Event(**row) for row in rows.mappings()]

    def steps(self, run: str) -> list[Event]:
        """Return the events that commit a step of the run, in order."""
        return self.events(run, kind=STEP)

    def committed_steps(self, run: str) -> dict[tuple[int | None, str], Event]:
        """Return the events of kind "step" by round and step: a resumed run skips these steps."""
        return {(event.round, str(event.step)): event for event in self.steps(run)}

    def record_annotations(self, lease: Lease, round: int, new: Sequence[Annotation]) -> int:
        """Enter the annotations whose example has none by the same annotator yet; return their
        number.

        Raises:
            ValueError: a price is negative, infinite or NaN; then none is entered.
        """
        with self.leased_transaction(lease) as connection:
            return self.enter_annotations(connection, lease.run, round, new)

    def enter_annotations(
        self, connection: sa.Connection, run: str, round: int, new: Sequence[Annotation]
    ) -> int:
        """Enter annotations as `record_annotations` does, within a `leased_transaction`."""
        for annotation in new:
            if not 0 <= annotation.dollars < math.inf:
                raise ValueError(
                    f"annotation of '{annotation.id}' costs {annotation.dollars} dollars, not 0 "
                    f"or more"
                )
        now = self.database.clock(connection)
        rows = [
            {
                "run": run,
                "round": round,
                "example_id": annotation.id,
                "annotator": annotation.annotator,
                "text": annotation.text,
                "dollars": annotation.dollars,
                "provenance": annotation.provenance,
                "time": now,
            }
            for annotation in new
        ]
        entered = self._insert_new(
            connection,
            annotations,
            rows,
            annotations.c.example_id,
            annotations.c.annotator,
            annotations.c.dollars,
        )
        add_labels(connection, run, round, [NewLabel(*label) for label in entered])
        return len(entered)

    def annotations(
        self, run: str, first: int = 0, last: int | None = None
    ) -> list[tuple[int, Annotation]]:
        """Return the annotations of rounds `first` to `last` with their round, by round and then in
        the order of entry.
        """
        table = annotations.c
        query = sa.select(
            table.round,
            table.example_id,
            table.text,
            table.annotator,
            table.dollars,
            table.provenance,
        )
        query = query.where(table.run == run).order_by(table.round, table.id)
        if first > 0:
            query = query.where(table.round >= first)
        if last is not None:
            query = query.where(table.round <= last)
        with self.database.reading() as connection:
            return [(round, Annotation(*values)) for round, *values in connection.execute(query)]

    def scan_annotations(self, run: str) -> Iterator[tuple[int, Annotation]]:
        """Yield what `annotations` returns, a page of `PAGE` labels at a time."""
        table = annotations.c
        names = ("round", "id", "example_id", "text", "annotator", "dollars", "provenance")
        columns = [table[name] for name in names]
        after = (-1, -1)
        while True:
            later = sa.tuple_(table.round, table.id) > sa.tuple_(*after)
            query = sa.select(*columns).where((table.run == run) & later)
            query = query.order_by(table.round, table.id).limit(PAGE)
            with self.database.reading() as connection:
                rows = connection.execute(query).all()
            for round, _, *values in rows:
                yield round, Annotation(*values)
            if len(rows) < PAGE:
                return
            after = (rows[-1].round, rows[-1].id)

    def labelled(self, run: str, last: int | None = None) -> list[str]:
        """Return the ids of the examples that have a label of a round up to `last`, in the order of
        `annotations`, of which no text is read.
        """
        table = annotations.c
        query = sa.select(table.example_id).where(table.run == run)
        if last is not None:
            query = query.where(table.round <= last)
        with self.database.reading() as connection:
            return list(connection.execute(query.order_by(table.round, table.id)).scalars())

    def dollars(self, run: str) -> float:
        """Return the summed price of the run's annotations in dollars."""
        with self.database.reading() as connection:
            total = sa.select(sa.func.sum(annotations.c.dollars)).where(annotations.c.run == run)
            return connection.execute(total).scalar_one() or 0.0

    def record_dead_letters(
        self, lease: Lease, round: int | None, letters: Sequence[DeadLetter]
    ) -> int:
        """Enter rows that a step could not handle; return how many were new.

        The first reason for an example and step stays.
        """
        with self.leased_transaction(lease) as connection:
            return self.enter_dead_letters(connection, lease.run, round, letters)

    def enter_dead_letters(
        self, connection: sa.Connection, run: str, round: int | None, letters: Sequence[DeadLetter]
    ) -> int:
        """Enter dead letters as `record_dead_letters` does, within a `leased_transaction`."""
        rows = [
            {
                "run": run,
                "round": round,
                "example_id": letter.id,
                "step": letter.step,
                "reason": letter.reason,
            }
            for letter in letters
        ]
        return len(self._insert_new(connection, dead_letters, rows, dead_letters.c.id))

    def count_dead_letters(self, run: str) -> int:
        """Return the number of the run's dead letters."""
        count = sa.select(sa.func.count()).where(dead_letters.c.run == run)
        with self.database.reading() as connection:
            return int(connection.execute(count).scalar_one())

    def buried(self, run: str, before: int) -> set[str]:
        """Return the ids of the examples that have a dead letter of a round below `before`, or
        outside all rounds.
        """
        earlier = sa.func.coalesce(dead_letters.c.round, 0) < before
        query = sa.select(dead_letters.c.example_id).where((dead_letters.c.run == run) & earlier)
        with self.database.reading() as connection:
            return set(connection.execute(query).scalars())

    def dead_letters(
        self, run: str, step: str | None = None, limit: int | None = None
    ) -> list[tuple[int | None, DeadLetter]]:
        """Return the run's dead letters with their round (None: outside all rounds), in the order
        of entry; with `step` only those of that step, with `limit` so many at most.
        """
        query = sa.select(dead_letters).where(dead_letters.c.run == run)
        if step is not None:
            query = query.where(dead_letters.c.step == step)
        query = query.order_by(dead_letters.c.id).limit(limit)
        with self.database.reading() as connection:
            return [
                (row.round, DeadLetter(row.example_id, row.step, row.reason))
                for row in connection.execute(query)
            ]

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

    def _lock(self, connection: sa.Connection, run: str) -> sa.Row[Any]:
        """Lock the run for this transaction and return its row of `controllers`."""
        query = sa.select(controllers).where(controllers.c.run == run).with_for_update()
        if (row := connection.execute(query).one_or_none()) is None:
            raise self._unknown(run)
        return row

    def _insert_new(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: list[dict[str, Any]],
        *columns: sa.Column[Any],
    ) -> Sequence[sa.Row[*tuple[Any, ...]]]:
        """Insert the rows whose unique key is free; return `columns` of these."""
        if not rows:
            return []
        return connection.execute(self.database.insert_new(table).returning(*columns), rows).all()

    def _unknown(self, run: str) -> UserError:
        with self.database.reading() as connection:
            names = connection.execute(sa.select(runs.c.name)).scalars().all()
        return UserError(
            f"run '{run}' is unknown{nearest(run, names) if names else '; there are none yet'}"
        )


def _has_live_controller(held: sa.Row[Any], now: float) -> bool:
    """Return whether the holder in a row of `controllers` may still be at work."""
    if held.owner is None or held.expires <= now:
        return False
    return not ProcessIdentity(
        held.owner, held.host, held.pid, held.started, held.machine
    ).is_dead()


def find_journal(storage: str, database_url: SecretStr | None = None) -> Journal | None:
    """Open the journal as `open_journal` does; return None, and create nothing, where a local
    storage does not exist.
    """
    if database_url is None:
        fs, root = open_storage(storage)
        if isinstance(fs, LocalFileSystem) and not fs.exists(root):
            return None
    return open_journal(storage, database_url)


def open_journal(storage: str, database_url: SecretStr | None = None) -> Journal:
    """Open the journal at `database_url`, or in SQLite at `<storage>/atgen.db`.

    Raises:
        UserError: storage is remote and database_url is null, or the database cannot be opened.
    """
    if database_url is not None:
        return Journal(database_url.get_secret_value())
    fs, root = open_storage(storage)
    if not isinstance(fs, LocalFileSystem):
        remote = storage.partition("://")[0]
        raise UserError(
            f"database_url is null but storage is {remote}://..., expected a postgresql:// URL "
            f"beside it"
        )
    return Journal(sa.URL.create("sqlite", database=f"{root}/atgen.db"))
