"""The database behind the journal: its tables, and transactions on SQLite or PostgreSQL.

SQLite runs in WAL mode, so readers never wait for the writer; it must lie on a local disk, since WAL needs memory
that all its users share. Controllers on several machines need PostgreSQL. `atgen_ray/migrations` says how to change
the tables.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection

from atgen_ray import migrations
from atgen_ray.errors import OutOfOrder, UserError
from atgen_ray.strict_json import encode_json

BUSY_SECONDS = 60  # how long a transaction waits for another's lock
OUTAGE_SECONDS = 30  # how long a server that was there and is not, as when it restarts, is waited for
IDLE_SECONDS = 30  # how long PostgreSQL waits for a client that is silent inside a transaction
TABLES = sa.MetaData()
_RUN = "runs.name"

runs = sa.Table(
    "runs",
    TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("created", sa.Double, nullable=False),  # seconds since 1970, as all times here
    sa.Column("updated", sa.Double, nullable=False),
)

# One row a run from its creation on: the row to lock for every write of the run.
controllers = sa.Table(
    "controllers",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),  # how often the run was taken
    sa.Column("owner", sa.String),  # null: free
    sa.Column("host", sa.String, nullable=False),
    sa.Column("machine", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),  # when that process started
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("stop_asked", sa.Boolean, nullable=False),
)

events = sa.Table(
    "events",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),  # from 1, no gaps
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("round", sa.Integer),
    sa.Column("step", sa.String),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("time", sa.Double, nullable=False),
)
# Two nulls are never equal to a unique index, so a step outside all rounds counts as one of round -1.
_COMMITTED = events.c.kind == sa.literal_column("'step'")
sa.Index(
    "one_event_per_step",
    events.c.run,
    sa.func.coalesce(events.c.round, sa.literal_column("-1")),
    events.c.step,
    unique=True,
    sqlite_where=_COMMITTED,
    postgresql_where=_COMMITTED,
)

# Texts are stored as JSON: a text column of PostgreSQL takes no NUL, and no database takes a lone surrogate.
annotations = sa.Table(
    "annotations",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey(_RUN), nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("text", sa.JSON, nullable=False),
    sa.Column("dollars", sa.Double, nullable=False),
    sa.Column("provenance", sa.JSON, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.UniqueConstraint("run", "example_id", "annotator"),
)

dead_letters = sa.Table(
    "dead_letters",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey(_RUN), nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("round", sa.Integer),
    sa.Column("reason", sa.JSON, nullable=False),
    sa.UniqueConstraint("run", "example_id", "step"),
)

# Every dollar: what is held for work that was sent, and what was paid for it. Money is whole billionths of a dollar.
ledger = sa.Table(
    "ledger",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("key", sa.String, primary_key=True),  # of the request, or of the label
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("held", sa.BigInteger, nullable=False),  # the worst case that was reserved
    sa.Column("paid", sa.BigInteger),  # null: not settled, so that `held` counts
)

# What is sent in one piece to a provider: a batch job, or a single request.
shards = sa.Table(
    "shards",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("hash", sa.String, primary_key=True),  # of its requests: the provider's metadata carry it
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("remote", sa.String),  # the provider's id; null: not known to be created
    sa.Column("status", sa.String, nullable=False),  # as the provider last said it
    sa.Column("done", sa.Boolean, nullable=False),  # all its answers are in `requests`
    sa.Column("time", sa.Double, nullable=False),
)

# A question to an annotating model, entered before it is sent, and its raw answer.
requests = sa.Table(
    "requests",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("custom_id", sa.String, primary_key=True),
    sa.Column("shard", sa.String, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("vote", sa.Integer, nullable=False),
    sa.Column("repair", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),  # how often it was sent before, unbilled
    sa.Column("prompt_hash", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # sent, answered, unanswered, refused, lost
    sa.Column("response", sa.JSON),
    sa.Column("reason", sa.JSON),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("output_tokens", sa.Integer),
    sa.Column("time", sa.Double, nullable=False),
    sa.UniqueConstraint("run", "annotator", "round", "example_id", "vote", "repair", "attempt"),
    sa.ForeignKeyConstraint(["run", "shard"], ["shards.run", "shards.hash"]),
)

# An example that people are to label, or whose label was brought along. Its state follows from the answers to it.
tasks = sa.Table(
    "tasks",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("example_id", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),  # answers by different people
    sa.Column("state", sa.String, nullable=False),  # open, disputed, answered, dropped; by the run: taken, buried
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("suggestion", sa.JSON),  # a model's answer: text, source, round
    sa.Column("why", sa.JSON),  # it was picked: strategy, rank, score, parts
    sa.Column("first", sa.JSON),  # what the first annotator of a router said of it
    sa.Column("decision", sa.JSON),  # of an admin
    sa.Column("changed", sa.Double, nullable=False),
)
sa.Index("open_tasks", tasks.c.run, tasks.c.state, tasks.c.round, tasks.c.rank)

# One person's work on one example. The key keeps anybody from labelling it twice.
assignments = sa.Table(
    "assignments",
    TABLES,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("example_id", sa.String, primary_key=True),
    sa.Column("annotator", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),  # leased, submitted, skipped, flagged
    sa.Column("until", sa.Double, nullable=False),  # when the lease expires
    sa.Column("leased", sa.Double, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),  # of the draft: an older one never replaces it
    sa.Column("draft", sa.JSON),
    sa.Column("text", sa.JSON),
    sa.Column("note", sa.JSON),  # why it was skipped or flagged
    sa.Column("seconds", sa.Double),
    sa.Column("answered", sa.Double),
    sa.ForeignKeyConstraint(["run", "example_id"], ["tasks.run", "tasks.example_id"]),
)

# What was answered to a request that may come again, by the key that its sender gave it.
receipts = sa.Table(
    "receipts",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("annotator", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),  # of the request
    sa.Column("answer", sa.JSON, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
)

# Who may use the service. The token itself is nowhere: it is 256 random bits, so one round of SHA-256 hides it.
tokens = sa.Table(
    "tokens",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
)


class Database:
    """An open database that holds the tables above, brought up to date when it is opened. Safe to use from threads.

    Its URL's password appears in no message, log or repr.
    """

    def __init__(self, url: str | sa.URL) -> None:
        """Open `sqlite:///FILE`, `postgresql://` or `postgresql+psycopg://`.

        Raises:
            UserError: the URL is malformed or of another database, its driver is missing, nothing answers, or the
                tables there are not ours or are of a newer version.
        """
        self._url = parse_url(url)
        self._name = self._url.set(query={}).render_as_string(hide_password=True)  # a query may hold a password too
        self._sqlite = self._url.get_backend_name() == "sqlite"
        try:
            engine = sa.create_engine(self._url, json_serializer=encode_json, hide_parameters=True, **self._options())
        except ImportError as error:
            raise UserError(f'database_url is {self._name}, which needs `pip install "atgen-ray[postgres]"`') from error
        if self._sqlite:
            sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite if self._sqlite else _begin_postgresql)
        self._order = threading.Lock()
        self._readers = engine
        self._writers = engine.execution_options(writes=True)
        self._patience = 0.0
        self._prepare()
        self._patience = 0.0 if self._sqlite else OUTAGE_SECONDS

    def __repr__(self) -> str:
        return f"Database({self._name!r})"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self._explained(), self._connect(self._readers) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes: committed on a clean exit, rolled back on an exception."""
        with self._turn(), self._explained(), self._connect(self._writers) as connection, connection.begin():
            yield connection

    def clock(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the database's clock, on which all machines agree; not frozen by the transaction."""
        sql = "(julianday('now') - 2440587.5) * 86400.0" if self._sqlite else "extract(epoch from clock_timestamp())"
        return float(connection.execute(sa.text(f"SELECT {sql}")).scalar_one())

    def insert_new(self, table: sa.Table) -> sa.Insert:
        """An INSERT that leaves out rows whose unique key is taken."""
        insert = sqlite.insert if self._sqlite else postgresql.insert
        return insert(table).on_conflict_do_nothing()

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()

    def _connect(self, engine: sa.Engine) -> sa.Connection:
        """A connection; nothing was sent yet, so that trying again does nothing twice."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return engine.connect()
            except sa.exc.OperationalError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.5)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Threads of this process write to SQLite in the order they came: its own lock is won by chance, after naps."""
        held = self._sqlite and self._order.acquire(timeout=BUSY_SECONDS)
        try:
            yield
        finally:
            if held:
                self._order.release()

    def _options(self) -> dict[str, object]:
        if self._sqlite:
            return {"connect_args": {"timeout": BUSY_SECONDS}}
        # Server-side prepared statements do not survive poolers such as PgBouncer.
        arguments = {"prepare_threshold": None, "connect_timeout": 10}
        return {"isolation_level": "READ COMMITTED", "pool_pre_ping": True, "connect_args": arguments}

    def _prepare(self) -> None:
        if not self._sqlite:
            self._update()
            return
        file = Path(str(self._url.database))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # The change to WAL, unlike all else, does not wait for other processes: one opens after the other.
            with FileLock(f"{file}.lock", timeout=BUSY_SECONDS), self._explained():
                with self._readers.connect() as connection:
                    connection.connection.cursor().execute("PRAGMA journal_mode = WAL")
                self._update()
        except OSError as error:
            raise UserError(f"database {self._name} cannot be opened: {error}") from error

    def _update(self) -> None:
        """Brings the tables to the newest revision."""
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
        """A transaction that changes tables, one process at a time."""
        if not self._sqlite:
            with self.writing() as connection:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('atgen-ray schema'))"))
                yield connection
            return
        with self._explained(), self._writers.connect() as connection:
            # SQLite alters many a table by making it anew, which others' references to it must not notice.
            connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    yield connection
                    if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise RuntimeError(f"the change of the tables would break a reference of '{broken[0]}'")
            finally:
                connection.connection.cursor().execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Trouble with the database itself, rather than with our use of it, is for the user to mend."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            if isinstance(error, sa.exc.IntegrityError | sa.exc.DataError):
                raise
            reason = " ".join(str(error.orig).split())
            if password := str(self._url.password or ""):
                reason = reason.replace(password, "***")
            raise OutOfOrder(f"database {self._name} cannot be used: {reason[:300]}") from None


def parse_url(url: str | sa.URL) -> sa.URL:
    """The URL with its driver; UserError, which never shows the URL itself, for one that we cannot use."""
    expected = "expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UserError(f"database_url cannot be read, {expected}, special characters as %40 for @") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UserError(f"database_url starts with '{parsed.drivername}', {expected}")
    if "@" in (parsed.host or ""):
        raise UserError(f"database_url holds more than one @, {expected}, with %40 for an @ in the password")
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:") or parsed.query:
            raise UserError("database_url is SQLite in memory or with options, expected a file: sqlite:///FILE")
        parsed = parsed.set(database=os.path.realpath(str(parsed.database)))
    return parsed


def _set_up_sqlite(connection: DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    # NORMAL would lose the last commits in a power cut, and a lost annotation may have been paid for.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the lock at once: one that begins by reading could not wait for it later, and would fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _begin_postgresql(connection: sa.Connection) -> None:
    # A machine that dies in a transaction must not keep the run's row locked until TCP gives up, hours later.
    connection.exec_driver_sql(
        f"SELECT set_config('idle_in_transaction_session_timeout', '{IDLE_SECONDS}s', true), "
        f"set_config('lock_timeout', '{BUSY_SECONDS}s', true)"
    )
