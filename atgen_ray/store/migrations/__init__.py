"""Revisions of the tables in `atgen_ray/store/tables.py`: one file each in `versions/`, run by
Alembic.

A database of an older atgen-ray is brought up to date when it is opened, in one transaction and
under a lock.

To change the tables: change them in `tables.py`, then

    python -m atgen_ray.store.migrations "What changed"

writes `versions/NNNN_what_changed.py` from the difference. Read it, add what becomes of the rows
that are there, and commit both. `tests/store/test_migrations.py` fails while the tables and the
revisions differ. A revision that was released is never changed again.
"""

import threading
from importlib.resources import files

import sqlalchemy as sa

from atgen_ray.store.tables import TABLES

VERSION_TABLE = "atgen_revision"
FIRST = "0001"
# Before there were revisions, a database with this table and version had the tables of FIRST.
OLD_TABLE = "atgen_schema"
OLD_VERSION = 2
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps its state in module globals


class ForeignDatabase(Exception):
    """The database cannot be brought to our newest revision; the text says why."""


def list_revisions() -> list[str]:
    """Return the ids of all revisions, the oldest first."""
    versions = files(__name__).joinpath("versions").iterdir()
    return sorted(file.name[:4] for file in versions if file.name[:4].isdigit())


def read_revision(connection: sa.Connection) -> str | None:
    """Return the revision of the tables in a database; None where there are none of ours."""
    inspector = sa.inspect(connection)
    if inspector.has_table(VERSION_TABLE):
        revision = sa.table(VERSION_TABLE, sa.column("version_num"))
        return str(connection.execute(sa.select(revision.c.version_num)).scalar_one())
    return None


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Bring the tables to `revision`, by default the newest, in the transaction of `connection`,
    which holds the lock on the schema.

    Raises:
        ForeignDatabase: the tables are of a newer atgen-ray, of one before the first revision, or
            of another program.
    """
    found = read_revision(connection)
    known = list_revisions()
    if found == known[-1]:
        return  # another process was quicker
    if found is not None and found not in known:
        raise ForeignDatabase(
            f"has schema revision {found}, expected at most {known[-1]}: upgrade atgen-ray"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "atgen_ray.store:migrations")
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        if found is None and _adopt(connection):
            command.stamp(config, FIRST)
            connection.execute(sa.text(f"DROP TABLE {OLD_TABLE}"))
        command.upgrade(config, revision)


def _adopt(connection: sa.Connection) -> bool:
    """Return whether the tables are those of the first revision, made before revisions were
    counted.
    """
    present = set(sa.inspect(connection).get_table_names())
    if OLD_TABLE in present:
        version = connection.execute(sa.text(f"SELECT version FROM {OLD_TABLE}")).scalar_one()  # noqa: S608
        if version != OLD_VERSION:
            raise ForeignDatabase(
                f"has schema version {version}, expected {OLD_VERSION}: it is of no released "
                f"atgen-ray"
            )
        return True
    if foreign := sorted(present & set(TABLES.tables)):
        raise ForeignDatabase(
            f"holds a table '{foreign[0]}' of something else, expected one of its own"
        )
    return False
