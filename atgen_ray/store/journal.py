"""Journal of runs: their records, the events in order, and every label and dead letter once.

Each method is one transaction, and those that write hold the run's lock: `LeasedDatabase` says who
may. What a transaction of several parts needs (`leased_transaction`, `run_transaction`) are the
functions of `events`, `labels`, `run_records` and `totals`, which take its connection.

A controller uses it so:

    lease = journal.acquire("demo", ProcessIdentity("me"), ttl=30)
    journal.append(lease, "step", round=1, step="selection", payload={"picks": 10})
"""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from fsspec.implementations.local import LocalFileSystem
from pydantic import SecretStr

from atgen_ray.core.errors import RunBusyError, UserError
from atgen_ray.core.names import check_run_name
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store import events, labels, run_records
from atgen_ray.store.events import Event, enter_event
from atgen_ray.store.leases import Lease, LeasedDatabase, explain_unknown
from atgen_ray.store.run_folder import open_storage
from atgen_ray.store.run_records import INTERRUPTED, UNDER_WAY, RunRecord, Status
from atgen_ray.store.tables import runs
from atgen_ray.store.totals import RunTotals, count_by_round, list_totals

START_SECONDS = 120.0  # how long a run that was created may wait for its controller


class Journal(LeasedDatabase):
    """The journal in the database at `url`."""

    def create_run(self, name: str, config: dict[str, Any], digest: str) -> RunRecord:
        """Enter a run, or find the run of that name; return its record.

        A run that exists stays as it is: the caller compares the record's digest with its own.

        Raises:
            UserError: `name` is not a valid name of a run.
        """
        check_run_name(name)
        with self.database.writing() as connection:
            run_records.enter_run(self.database, connection, name, config, digest)
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
            if driver := self.lock_driver(connection, name):
                raise RunBusyError(
                    f"run '{name}' is driven by process {driver.pid} on host '{driver.host}' with "
                    f"other settings: stop it "
                    f"first, as by `atgen-ray runs stop {name}`, then give it these"
                )
            connection.execute(
                sa.update(runs).where(runs.c.name == name).values(config=config, digest=digest)
            )
            enter_event(self.database, connection, name, events.CHANGED, payload=payload)

    def note_restored(self, name: str) -> None:
        """Enter that the journal is a backup of `name`, which has run further since: before
        anything is sent, the run looks whether its provider has it already.

        Raises:
            RunBusyError: a controller drives the run.
        """
        with self.database.writing() as connection:
            if driver := self.lock_driver(connection, name):
                raise RunBusyError(f"run '{name}' is driven by process {driver.pid}: stop it first")
            since = events.find_last_time(connection, name)
            if since is not None:
                payload = {"since": since}
                enter_event(self.database, connection, name, events.RESTORED, payload=payload)

    def note_removed(self, name: str, outputs: Sequence[str]) -> None:
        """Enter that outputs of a finished run are about to be removed, as nobody wants them."""
        with self.run_transaction(name) as connection:
            payload = {"outputs": [*outputs]}
            enter_event(self.database, connection, name, events.REMOVED, payload=payload)

    def note_requested(self, name: str, request: str) -> None:
        """Enter that the HTTP request of the id `request` started the run or let it go on."""
        with self.run_transaction(name) as connection:
            payload = {"request_id": request}
            enter_event(self.database, connection, name, events.REQUESTED, payload=payload)

    def run(self, name: str) -> RunRecord:
        """Return the run of that name; raise UserError when there is none."""
        with self.database.reading() as connection:
            if (record := run_records.find_run(connection, name)) is None:
                raise explain_unknown(connection, name)
            return record

    def find_run(self, name: str) -> RunRecord | None:
        """Return the run of that name; None when there is none."""
        with self.database.reading() as connection:
            return run_records.find_run(connection, name)

    def has_run(self, name: str) -> bool:
        """Return whether there is a run of that name."""
        query = sa.select(runs.c.name).where(runs.c.name == name)
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def runs(self) -> list[RunRecord]:
        """Return all runs, the oldest first."""
        with self.database.reading() as connection:
            return run_records.list_runs(connection)

    def totals(self) -> list[RunTotals]:
        """Return the totals of all runs, the oldest first; the cost does not grow with their
        labels.
        """
        with self.database.reading() as connection:
            return list_totals(connection)

    def total(self, run: str) -> RunTotals:
        """Return the totals of one run; raise UserError when there is none of that name."""
        with self.database.reading() as connection:
            if not (found := list_totals(connection, run)):
                raise explain_unknown(connection, run)
            return found[0]

    def count_labels(self, run: str) -> dict[int, int]:
        """Return the number of labels of each round that has any."""
        with self.database.reading() as connection:
            return count_by_round(connection, run)

    def set_status(self, lease: Lease, status: Status) -> None:
        """Set the status of the run."""
        with self.leased_transaction(lease) as connection:
            run_records.change_status(self.database, connection, lease.run, status)

    def end_undriven(self, run: str, message: str) -> bool:
        """End a run that is under way and has no controller, with the status stopped; return
        whether it did.
        """
        with self.database.writing() as connection:
            if self.lock_driver(connection, run) is not None or not run_records.change_status(
                self.database, connection, run, "stopped", only=UNDER_WAY
            ):
                return False
            payload = {"message": message}
            enter_event(self.database, connection, run, "stopped", payload=payload)
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
        """Enter an event and return it; see `enter_event`."""
        if kind == events.STEP and step is None:
            raise ValueError("an event of kind 'step' names its step")
        with self.leased_transaction(lease) as connection:
            return enter_event(
                self.database, connection, lease.run, kind, round, step, payload, seconds
            )

    def last_sequence(self, run: str) -> int:
        """Return the sequence number of the run's last event; 0 before the first."""
        with self.database.reading() as connection:
            return events.find_last_sequence(connection, run)

    def events(
        self,
        run: str,
        after: int = 0,
        kind: str | Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Return events of the run, in order; see `list_events`."""
        with self.database.reading() as connection:
            return events.list_events(connection, run, after, kind, limit)

    def steps(self, run: str) -> list[Event]:
        """Return the events that commit a step of the run, in order."""
        return self.events(run, kind=events.STEP)

    def committed_steps(self, run: str) -> dict[tuple[int | None, str], Event]:
        """Return the events of kind "step" by round and step: a resumed run skips these steps."""
        return {(event.round, str(event.step)): event for event in self.steps(run)}

    def record_annotations(self, lease: Lease, round: int, new: Sequence[Annotation]) -> int:
        """Enter annotations and return how many were new; see `enter_annotations`."""
        with self.leased_transaction(lease) as connection:
            return labels.enter_annotations(self.database, connection, lease.run, round, new)

    def annotations(
        self, run: str, first: int = 0, last: int | None = None
    ) -> list[tuple[int, Annotation]]:
        """Return annotations with their round; see `list_annotations`."""
        with self.database.reading() as connection:
            return labels.list_annotations(connection, run, first, last)

    def scan_annotations(self, run: str) -> Iterator[tuple[int, Annotation]]:
        """Yield what `annotations` returns, a page of labels at a time."""
        last = labels.START
        while True:
            with self.database.reading() as connection:
                rows = labels.list_page(connection, run, last)
            if not rows:
                return
            for row in rows:
                yield row.round, row.annotation
            last = (rows[-1].round, rows[-1].id)

    def labelled(self, run: str, last: int | None = None) -> list[str]:
        """Return the ids of labelled examples; see `list_labelled`."""
        with self.database.reading() as connection:
            return labels.list_labelled(connection, run, last)

    def dollars(self, run: str) -> float:
        """Return the summed price of the run's annotations in dollars."""
        with self.database.reading() as connection:
            return labels.sum_dollars(connection, run)

    def record_dead_letters(
        self, lease: Lease, round: int | None, letters: Sequence[DeadLetter]
    ) -> int:
        """Enter rows that a step could not handle; return how many were new.

        The first reason for an example and step stays.
        """
        with self.leased_transaction(lease) as connection:
            return labels.enter_dead_letters(self.database, connection, lease.run, round, letters)

    def count_dead_letters(self, run: str) -> int:
        """Return the number of the run's dead letters."""
        with self.database.reading() as connection:
            return labels.count_dead_letters(connection, run)

    def buried(self, run: str, before: int) -> set[str]:
        """Return the ids of examples with a dead letter; see `list_buried`."""
        with self.database.reading() as connection:
            return labels.list_buried(connection, run, before)

    def dead_letters(
        self, run: str, step: str | None = None, limit: int | None = None
    ) -> list[tuple[int | None, DeadLetter]]:
        """Return the run's dead letters with their round; see `list_dead_letters`."""
        with self.database.reading() as connection:
            return labels.list_dead_letters(connection, run, step, limit)


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
