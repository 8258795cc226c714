"""Title, archive and removal of runs. The name of a run is a key everywhere and never changes."""

import sqlalchemy as sa

from atgen_ray.core.errors import UserError
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import TABLES, invites, runs, tokens
from atgen_ray.store.usage import enter_trained

LONGEST_TITLE = 120  # characters
REMOVAL_SECONDS = 600.0  # the lease under which a run is removed


def set_title(journal: Journal, run: str, title: str | None) -> None:
    """Give the run the title that pages show in place of its name; None takes it away.

    Raises:
        UserError: no run has that name, or the title is no line of 1 to 120 characters.
    """
    if title is not None and not (title.strip() == title and 0 < len(title) <= LONGEST_TITLE):
        raise UserError(
            f"title is {title[:80]!r}, expected 1 to {LONGEST_TITLE} characters without blanks at "
            f"the ends"
        )
    if title is not None and not title.isprintable():
        raise UserError(f"title is {title[:80]!r}, expected one line of printable characters")
    _change(journal, run, title=title)


def set_archived(journal: Journal, run: str, archived: bool) -> None:
    """Leave the run out of lists from now on, or show it there again; nothing else changes.

    Raises:
        UserError: no run has that name.
    """
    with journal.database.reading() as connection:
        now = journal.database.clock(connection)
    _change(journal, run, archived=now if archived else None)


def set_served(journal: Journal, run: str, served: bool) -> None:
    """Enter whether a service started the run last, so that it goes on with it after a restart."""
    _change(journal, run, served=served)


def remove_run(journal: Journal, storage: str, run: str) -> None:
    """Remove a run for ever: its folder with its adapters, and every row of the journal.

    The run is held by a lease meanwhile, so no controller can take it. A removal that was cut short
    leaves the run in the journal, so that it can be done again.

    Raises:
        UserError: no run has that name.
        RunBusyError: a controller drives it.
    """
    lease = journal.acquire(run, ProcessIdentity("removal"), REMOVAL_SECONDS)
    try:
        enter_trained(journal.database, storage, run)
        RunFolder(storage, run).remove_all()
    except BaseException:
        lease.release()
        raise
    with journal.leased_transaction(lease) as connection:
        for table in reversed(TABLES.sorted_tables):  # rows that name others go before these
            if table is not runs and "run" in table.c:
                connection.execute(sa.delete(table).where(table.c.run == run))
        connection.execute(sa.delete(runs).where(runs.c.name == run))
        for table in (tokens, invites):
            _unshare(connection, table, run)


def count_rows(journal: Journal, run: str) -> dict[str, int]:
    """Return how many rows each table has of the run, those without any left out."""
    found = {}
    with journal.database.reading() as connection:
        for table in TABLES.sorted_tables:
            key = table.c.get("run") if table is not runs else runs.c.name
            if key is not None:
                query = sa.select(sa.func.count()).select_from(table).where(key == run)
                found[table.name] = int(connection.execute(query).scalar_one())
    return {name: count for name, count in found.items() if count}


def _unshare(connection: sa.Connection, table: sa.Table, run: str) -> None:
    """Take the run from what tokens or invitations may see: another run may get its name."""
    shared = sa.select(table.c.id, table.c.runs).where(table.c.runs.is_not(None))
    for row in connection.execute(shared).all():
        if run in (row.runs or ()):
            left = [name for name in row.runs if name != run]
            connection.execute(sa.update(table).where(table.c.id == row.id).values(runs=left))


def _change(journal: Journal, run: str, **values: object) -> None:
    with journal.run_transaction(run) as connection:
        connection.execute(sa.update(runs).where(runs.c.name == run).values(**values))
