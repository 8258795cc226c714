"""Revisions of the database: old journals are brought up to date, newer ones refused, and no table
is forgotten.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from helpers.processes import PROCESSES

from atgen_ray.core.errors import UserError
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store import migrations
from atgen_ray.store.database import Database
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import TABLES, tokens

FIRST = Path(__file__).with_name("first_schema.sql").read_text()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], sa.Engine]:
    """Makes empty databases, and gives an engine that looks at them past our own code."""

    def make() -> sa.Engine:
        name = f"migration_{uuid4().hex}"
        if request.param == "sqlite":
            return sa.create_engine(f"sqlite:///{tmp_path / name}.db")
        url = sa.make_url(request.getfixturevalue("postgres_url")).set(
            drivername="postgresql+psycopg"
        )
        server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return sa.create_engine(url.set(database=name), poolclass=sa.NullPool)

    return make


def write_first_schema(engine: sa.Engine) -> None:
    script = FIRST
    if engine.dialect.name == "postgresql":
        script = FIRST.replace("id INTEGER NOT NULL", "id SERIAL NOT NULL").replace(
            "DOUBLE", "DOUBLE PRECISION"
        )
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def describe(engine: sa.Engine) -> object:
    """Tables, columns and indexes as the database itself tells them."""
    query = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
    )
    if engine.dialect.name == "postgresql":
        query = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
            f"AND tablename <> '{migrations.VERSION_TABLE}' ORDER BY indexname"
        )
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        columns = {
            table: sorted(
                (c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)
            )
            for table in sorted(inspector.get_table_names())
            if table != migrations.VERSION_TABLE
        }
        return columns, [tuple(map(str, row)) for row in connection.exec_driver_sql(query)]


def test_the_revisions_make_exactly_the_tables(new_database: Callable[[], sa.Engine]) -> None:
    by_revisions, by_metadata = new_database(), new_database()
    Database(by_revisions.url).close()
    TABLES.create_all(by_metadata)
    with by_revisions.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrations.VERSION_TABLE}
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # that indexes over expressions are not compared: the last line does it
            assert compare_metadata(context, TABLES) == []
    assert describe(by_revisions) == describe(by_metadata)


def test_revisions_are_one_line_of_numbers() -> None:
    config = Config()
    config.set_main_option("script_location", "atgen_ray.store:migrations")
    line = [revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()]
    assert (
        line[::-1] == migrations.list_revisions() == [f"{at:04d}" for at in range(1, len(line) + 1)]
    )


def test_a_journal_of_the_first_schema_goes_on(new_database: Callable[[], sa.Engine]) -> None:
    engine = new_database()
    write_first_schema(engine)
    journal = Journal(engine.url)
    assert journal.run("old").config == {"seed": 1}
    assert [(event.step, event.payload) for event in journal.events("old")] == [
        ("pool", {"rows": 2})
    ]
    assert journal.annotations("old") == [(1, Annotation("e1", "einé", "dataset", 0.5))]
    assert journal.dead_letters("old") == [(None, DeadLetter("e2", "pool", "empty"))]
    lease = journal.acquire("old", ProcessIdentity("new"), 60)
    assert (lease.epoch, journal.append(lease, "step", 0, "pool").sequence) == (4, 1)
    assert journal.record_annotations(
        lease, 1, [Annotation("e1", "x", "dataset"), Annotation("e3", "x", "dataset")]
    )
    with journal.database.reading() as connection:
        assert connection.execute(sa.select(tokens.c.id)).scalars().all() == ["abcd"]
        assert migrations.read_revision(connection) == migrations.list_revisions()[-1]
        assert migrations.OLD_TABLE not in sa.inspect(connection).get_table_names()
    journal.close()
    upgraded, fresh = describe(engine), new_database()
    Database(fresh.url).close()
    assert upgraded == describe(fresh)


def test_a_newer_database_is_refused_in_one_line(new_database: Callable[[], sa.Engine]) -> None:
    engine = new_database()
    Database(engine.url).close()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE atgen_revision SET version_num = '9999'")
    newest = migrations.list_revisions()[-1]
    with pytest.raises(
        UserError, match=f"has schema revision 9999, expected at most {newest}: upgrade atgen-ray$"
    ):
        Database(engine.url)


def test_an_unreleased_schema_and_foreign_tables_are_left_alone(
    new_database: Callable[[], sa.Engine],
) -> None:
    engine = new_database()
    write_first_schema(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE atgen_schema SET version = 1")
    before = describe(engine)
    with pytest.raises(UserError, match="has schema version 1, expected 2"):
        Database(engine.url)
    assert describe(engine) == before
    foreign = new_database()
    with foreign.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (kilometres INTEGER)")
    with pytest.raises(UserError, match="holds a table 'runs' of something else"):
        Database(foreign.url)


def test_an_upgrade_that_fails_changes_nothing(
    new_database: Callable[[], sa.Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_database()
    write_first_schema(engine)
    before = describe(engine)

    def fail(connection: sa.Connection) -> None:
        migrations._adopt(connection)
        connection.exec_driver_sql("DROP TABLE tokens")
        connection.exec_driver_sql("CREATE TABLE half (done INTEGER)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "upgrade", fail)
        with pytest.raises(KeyboardInterrupt):
            Database(engine.url)
    assert describe(engine) == before
    Database(engine.url).close()


def test_threads_may_open_new_journals_together(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for database in pool.map(
            lambda at: Database(f"sqlite:///{tmp_path / f'{at}.db'}"), range(12)
        ):
            with database.reading() as connection:
                assert migrations.read_revision(connection) == migrations.list_revisions()[-1]


def open_together(url: str, barrier: Barrier) -> None:
    barrier.wait(60)
    Database(url).close()


def test_processes_may_upgrade_a_journal_together(new_database: Callable[[], sa.Engine]) -> None:
    engine = new_database()
    write_first_schema(engine)
    url, barrier = engine.url.render_as_string(hide_password=False), PROCESSES.Barrier(4)
    openers = [PROCESSES.Process(target=open_together, args=(url, barrier)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(60)
    assert [opener.exitcode for opener in openers] == [0] * 4
    assert [record.name for record in Journal(url).runs()] == ["old"]


def test_tables_may_be_made_anew_while_others_refer_to_them(tmp_path: Path) -> None:
    """As SQLite alters a table; the references must hold again at the end."""
    database = Database(f"sqlite:///{tmp_path / 'atgen.db'}")
    with database.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO runs (name, config, digest, status, created, updated) "
            "VALUES ('a', '{}', '', 'created', 0, 0)"
        )
        connection.exec_driver_sql(
            "INSERT INTO dead_letters VALUES (1, 'a', 'e', 'pool', NULL, '\"\"')"
        )
    with database._altering() as connection:
        connection.exec_driver_sql("CREATE TABLE new AS SELECT * FROM runs")
        connection.exec_driver_sql("DROP TABLE runs")
        connection.exec_driver_sql("CREATE TABLE runs (name VARCHAR PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO runs SELECT name FROM new")
    with (
        pytest.raises(RuntimeError, match="break a reference of 'dead_letters'"),
        database._altering() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM runs")
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
        assert connection.exec_driver_sql("SELECT name FROM runs").scalar_one() == "a"
