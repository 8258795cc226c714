"""Database behind the journal: transactions on SQLite or PostgreSQL.

- SQLite runs in WAL mode, so readers never wait for the writer. The file must lie on a local disk,
  since WAL needs memory that all its users share. Controllers on several machines need PostgreSQL.
- A database that is full, locked or away raises StorageUnavailableError; a broken constraint keeps
  its own exception, since it is a defect of ours.
- The password in the URL appears in no message, log or repr.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection

from atgen_ray.core.errors import StorageFullError, StorageUnavailableError, UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.private_files import private_files
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store import migrations

BUSY_SECONDS = 60  # how long a transaction waits for the lock of another
OUTAGE_SECONDS = 30  # how long to wait for a server that answered before, such as one restarting
IDLE_SECONDS = 30  # how long PostgreSQL waits for a client that is silent inside a transaction

_REVISION = sa.table(migrations.VERSION_TABLE)


class Database:
    """An open database with our tables, which are brought to the newest revision as it is opened.
    Safe to use from threads.
    """

    def __init__(self, url: str | sa.URL) -> None:
        """Open `sqlite:///FILE`, `postgresql://` or `postgresql+psycopg://`.

        Raises:
            UserError: the URL is malformed or of another database, its driver is missing, nothing
                answers, or the tables there are not ours or are of a newer version.
        """
        self._url = parse_url(url)
        # Without its query, which may hold a password too.
        self._name = self._url.set(query={}).render_as_string(hide_password=True)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        try:
            engine = sa.create_engine(
                self._url, json_serializer=encode_json, hide_parameters=True, **self._options()
            )
        except ImportError as error:
            raise UserError(
                f'database_url is {self._name}, which needs `pip install "atgen-ray[postgres]"`'
            ) from error
        if self._sqlite:
            sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite if self._sqlite else _begin_postgresql)
        self._write_lock = machine().lock()
        self._readers = engine
        self._writers = engine.execution_options(writes=True)
        # A server that never answered fails at once: its URL is probably wrong.
        self._outage_seconds = 0.0
        self._prepare()
        self._outage_seconds = 0.0 if self._sqlite else OUTAGE_SECONDS

    def __repr__(self) -> str:
        return f"Database({self._name!r})"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a transaction that only reads."""
        with self._explained(), self._connect(self._readers) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Open a transaction that writes; commit on a clean exit, roll back on an exception."""
        with (
            self._queued(),
            self._explained(),
            self._connect(self._writers) as connection,
            connection.begin(),
        ):
            yield connection

    def clock(self, connection: sa.Connection) -> float:
        """Return the seconds since 1970 by the database's clock, on which all machines agree.

        The time goes on within a transaction, unlike `now()` of PostgreSQL.
        """
        sql = (
            "(julianday('now') - 2440587.5) * 86400.0"
            if self._sqlite
            else "extract(epoch from clock_timestamp())"
        )
        return float(connection.execute(sa.text(f"SELECT {sql}")).scalar_one())

    def insert_new(self, table: sa.Table) -> sa.Insert:
        """Return an INSERT that leaves out rows whose unique key is taken."""
        insert = sqlite.insert if self._sqlite else postgresql.insert
        return insert(table).on_conflict_do_nothing()

    def check(self) -> None:
        """Check that the database answers and that its tables are of this version.

        Raises:
            StorageUnavailableError: it cannot be used, or another version of atgen-ray has changed
                its tables.
        """
        newest = migrations.list_revisions()[-1]
        with self.reading() as connection:
            found = connection.execute(
                sa.select(sa.column("version_num")).select_from(_REVISION)
            ).scalar_one_or_none()
        if found != newest:
            raise StorageUnavailableError(
                f"database {self._name} has schema revision {found}, expected {newest}"
            )

    def scrub(self) -> str:
        """Overwrite what was deleted, as far as this process can; return in one sentence what is
        left of it. SQLite's file is written anew, which takes its size again meanwhile.
        """
        if not self._sqlite:
            return (
                "PostgreSQL keeps the old rows in its files until VACUUM FULL, and in its "
                "write-ahead log until that is recycled: run VACUUM FULL when nobody works"
            )
        with self._queued(), self._explained(), self._readers.connect() as connection:
            raw = connection.connection.cursor()
            raw.execute("VACUUM")
            (busy, *_), *_ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            raw.close()
        if busy:
            return (
                "somebody reads the database: its -wal file holds old pages until its next "
                "checkpoint, at the latest when all its users have closed it"
            )
        return ""

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()

    def _connect(self, engine: sa.Engine) -> sa.Connection:
        """Return a connection, after retries while the server is away.

        Nothing was sent yet, so a retry does nothing twice.
        """
        deadline = machine().monotonic() + self._outage_seconds
        while True:
            try:
                return engine.connect()
            except sa.exc.OperationalError:
                if machine().monotonic() >= deadline:
                    raise
                machine().sleep(0.5)

    @contextmanager
    def _queued(self) -> Iterator[None]:
        """Let the threads of this process write to SQLite one after the other.

        SQLite's own lock is polled after sleeps and goes to whoever wakes first, so a thread could
        starve.
        """
        held = self._sqlite and self._write_lock.acquire(timeout=BUSY_SECONDS)
        try:
            yield
        finally:
            if held:
                self._write_lock.release()

    def _options(self) -> dict[str, object]:
        """Return the arguments of `create_engine` for this kind of database."""
        if self._sqlite:
            return {"connect_args": {"timeout": BUSY_SECONDS}}
        # Server-side prepared statements do not survive poolers such as PgBouncer.
        arguments = {"prepare_threshold": None, "connect_timeout": 10}
        return {
            "isolation_level": "READ COMMITTED",
            "pool_pre_ping": True,
            "connect_args": arguments,
        }

    def _prepare(self) -> None:
        """Create the database file where it is missing, and bring the tables up to date."""
        if not self._sqlite:
            self._update()
            return
        file = Path(str(self._url.database))
        try:
            with private_files():
                # SQLite gives its other files the mode of this one.
                file.parent.mkdir(parents=True, exist_ok=True)
                for path in (file, Path(f"{file}.lock")):
                    if not path.exists():
                        path.touch()
            # The change to WAL mode fails instead of waiting for other processes, so that they must
            # open the file one after the other.
            with FileLock(f"{file}.lock", timeout=BUSY_SECONDS), self._explained():
                with self._readers.connect() as connection:
                    connection.connection.cursor().execute("PRAGMA journal_mode = WAL")
                self._update()
        except OSError as error:
            raise UserError(f"database {self._name} cannot be opened: {error}") from error

    def _update(self) -> None:
        """Bring the tables to the newest revision."""
        with self.reading() as connection:
            if migrations.read_revision(connection) == migrations.list_revisions()[-1]:
                return
        try:
            with self._altering() as connection:
                migrations.upgrade(connection)
        except migrations.ForeignDatabase as reason:
            raise UserError(f"database {self._name} {reason}") from None

    @contextmanager
    def _altering(self) -> Iterator[sa.Connection]:
        """Open a transaction that changes tables, one process at a time."""
        if not self._sqlite:
            with self.writing() as connection:
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(hashtext('atgen-ray schema'))")
                )
                yield connection
            return
        with self._explained(), self._writers.connect() as connection:
            # Alembic alters a table of SQLite by copying it, during which references to it would be
            # broken.
            connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    yield connection
                    if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise RuntimeError(
                            f"the change of the tables would break a reference of '{broken[0]}'"
                        )
            finally:
                connection.connection.cursor().execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the database itself, such as a full disk, into UserErrors.

        A violated constraint or a value out of range passes as it is: it is a defect of ours.
        """
        try:
            yield
        except sa.exc.DBAPIError as error:
            if isinstance(error, sa.exc.IntegrityError | sa.exc.DataError):
                raise
            reason = " ".join(str(error.orig).split())
            if password := str(self._url.password or ""):
                reason = reason.replace(password, "***")
            kind = StorageFullError if _is_full(error) else StorageUnavailableError
            raise kind(f"database {self._name} cannot be used: {reason[:300]}") from None


def parse_url(url: str | sa.URL) -> sa.URL:
    """Return the URL with its driver.

    Raises:
        UserError: the URL cannot be used; the message never shows the URL, which may hold a
            password.
    """
    expected = "expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UserError(
            f"database_url cannot be read, {expected}, special characters as %40 for @"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UserError(f"database_url starts with '{parsed.drivername}', {expected}")
    if "@" in (parsed.host or ""):
        raise UserError(
            f"database_url holds more than one @, {expected}, with %40 for an @ in the password"
        )
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:") or parsed.query:
            raise UserError(
                "database_url is SQLite in memory or with options, expected a file: sqlite:///FILE"
            )
        parsed = parsed.set(database=os.path.realpath(str(parsed.database)))
    return parsed


def _is_full(error: sa.exc.DBAPIError) -> bool:
    """Return whether the database reports a full disk (SQLITE_FULL; disk_full of PostgreSQL)."""
    code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
    return code in ("SQLITE_FULL", "53100")


def _set_up_sqlite(connection: DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    # NORMAL would lose the last commits in a power cut, and with them answers that were paid for.
    cursor.execute("PRAGMA synchronous = FULL")
    # What is deleted is overwritten with zeros, and does not stay in free pages.
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the lock at once: SQLite does not let a transaction that began by reading wait
    # for the lock later, so it would fail.
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN"
    )


def _begin_postgresql(connection: sa.Connection) -> None:
    # A machine that dies in a transaction must not keep the run's row locked until TCP gives up,
    # hours later.
    connection.exec_driver_sql(
        f"SELECT set_config('idle_in_transaction_session_timeout', '{IDLE_SECONDS}s', true), "
        f"set_config('lock_timeout', '{BUSY_SECONDS}s', true)"
    )
