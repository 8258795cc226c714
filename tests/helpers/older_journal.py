"""A journal as an older release has left it: the tables of its revision, and its events."""

import json
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from atgen_ray.store import migrations
from atgen_ray.store.step_outputs import FILES, PLACE


def list_columns(connection: sqlite3.Connection, schema: str, table: str) -> list[str]:
    found = connection.execute(f"PRAGMA {schema}.table_info({table})").fetchall()
    return [row[1] for row in found]


def age_journal(path: Path, revision: str) -> None:
    """Makes the SQLite journal at `path` one of `revision`, with all that its tables can hold.

    Steps lose the places and digests of their files, which releases of that time did not enter.
    """
    old = path.with_suffix(".old")
    engine = sa.create_engine(f"sqlite:///{old}")
    with engine.begin() as made:
        migrations.upgrade(made, revision)
        tables = sa.inspect(made).get_table_names()
    engine.dispose()
    connection = sqlite3.connect(old)
    connection.execute("ATTACH DATABASE ? AS newer", (str(path),))
    connection.execute("PRAGMA foreign_keys = OFF")
    # They keep the audit log from losing what a new journal begins with.
    select = "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger'"
    triggers = connection.execute(select).fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER main.{name}")
    for table in tables:
        if table == migrations.VERSION_TABLE:
            continue
        kept = set(list_columns(connection, "newer", table))
        columns = ", ".join(
            f'"{name}"' for name in list_columns(connection, "main", table) if name in kept
        )
        connection.execute(f"DELETE FROM main.{table}")
        connection.execute(
            f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}"
        )
    rows = connection.execute("SELECT run, sequence, payload FROM main.events").fetchall()
    for run, sequence, payload in rows:
        left = {k: v for k, v in json.loads(payload).items() if k not in (PLACE, FILES)}
        connection.execute(
            "UPDATE main.events SET payload = ? WHERE run = ? AND sequence = ?",
            (json.dumps(left), run, sequence),
        )
    for _, made_by in triggers:
        connection.execute(made_by)
    connection.commit()
    connection.close()
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        file.unlink(missing_ok=True)
    old.rename(path)
