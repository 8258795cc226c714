"""Edges of the database: connections of SQLite that fail, die and answer too late.

A transaction that writes is one event, since SQLite lets one writer in at a time (as the lock on a
run does in PostgreSQL). Before it begins, and after it has ended, others may come. Its commit may
fail, or be done and not be answered. SQLite reads the simulated clock.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa

from .world import World

UNIX = 2440587.5  # Julian day of 1970
_real_engine = sa.create_engine
_engines: dict[str, sa.Engine] = {}


@contextmanager
def simulated_database(world: World, committed: Callable[[], None]) -> Iterator[None]:
    """Have connections of SQLite in the block be simulated ones; `committed` is called after each
    transaction that has changed something, before anybody else comes.
    """

    class Cursor(sqlite3.Cursor):
        connection: "Connection"

        def execute(self, sql: str, *parameters: Any) -> "Cursor":
            if sql.startswith("BEGIN"):
                if world.edge("database begin", "database-away"):
                    raise sqlite3.OperationalError("unable to open database file")
                self.connection.began = self.connection.total_changes
            super().execute(sql, *parameters)
            return self

    class Connection(sqlite3.Connection):
        began = 0

        def cursor(self, *_: Any) -> Cursor:  # type: ignore[override]
            return super().cursor(Cursor)

        def commit(self) -> None:
            if not self.in_transaction or self.total_changes == self.began:
                super().commit()
                return
            fault = world.strike("database commit", "commit-fails", "commit-unanswered")
            if fault == "commit-fails":
                super().rollback()
                raise sqlite3.OperationalError("disk I/O error")
            super().commit()
            committed()
            if fault == "commit-unanswered":
                raise sqlite3.OperationalError("disk I/O error")
            world.edge("database committed")

    real = sqlite3.dbapi2.connect

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*arguments, **named, factory=Connection)
        connection.create_function("julianday", 1, lambda when: UNIX + world.time() / 86400.0)
        return connection

    with (
        patch.object(sqlite3.dbapi2, "connect", connect),
        patch.object(sa, "create_engine", _create_engine),
    ):
        yield


def _create_engine(*arguments: Any, **named: Any) -> sa.Engine:
    """Return an engine that shares the compiled statements of all others: to compile them anew for
    each controller takes a third of the time of a history.
    """
    engine = _real_engine(*arguments, **named)
    shared = _engines.setdefault("first", engine)
    engine.dialect = shared.dialect
    engine._compiled_cache = shared._compiled_cache
    return engine
