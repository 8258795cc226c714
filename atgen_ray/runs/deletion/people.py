"""Deletion of a person's name: a pseudonym stands in its place, so that labels keep their order and
agreement between people stays what it was.
"""

from typing import Any

import sqlalchemy as sa

from atgen_ray.runs.deletion.certificate import Certificate, Remaining, Removed
from atgen_ray.runs.deletion.examples import (
    check_free,
    read_config,
    redact_run,
    rehearse,
    tell_copies,
)
from atgen_ray.runs.deletion.redaction import Redaction, Rename, list_strings
from atgen_ray.runs.deletion.rows import clean_tables
from atgen_ray.store.audit import redact_within
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import (
    annotations,
    assignees,
    assignments,
    invites,
    receipts,
    reviews,
    revisions,
    runs,
    sessions,
    token_usage,
    tokens,
)

# Columns that name people.
NAMED = (
    assignments.c.annotator,
    assignees.c.who,
    annotations.c.annotator,
    receipts.c.annotator,
    reviews.c.by,
    reviews.c.annotator,
    revisions.c.by,
    revisions.c.annotator,
)


def list_names(journal: Journal) -> list[str]:
    """Return the names of people that tokens, invitations and runs have."""
    names = set[str]()
    with journal.database.reading() as connection:
        for column in (tokens.c.label, invites.c.person, invites.c.author, *NAMED):
            found = connection.execute(sa.select(column).distinct()).scalars()
            names.update(str(name).removeprefix("human/") for name in found if name)
    return sorted(names)


def delete_person(journal: Journal, storage: str, rename: Rename, out: Certificate) -> None:
    """Give a person the pseudonym everywhere, and end the tokens and links of that person; a
    rehearsal only fills the certificate.
    """
    redaction = Redaction(rename=rename)
    every = [record.name for record in journal.runs()]
    # Only the runs that change must be free: others go on. An attempt that was cut short knows of
    # some whose rows are clean by now.
    touched = [
        run for run in every if run in out.runs or _is_touched(journal, storage, run, redaction)
    ]
    check_free(journal, touched)
    for run in touched:
        redact_run(journal, storage, run, read_config(journal, run, storage), redaction, out)
    for record in journal.runs():
        if any(rename.words(text) != text for text in list_strings(record.config)):
            out.add(
                Remaining(
                    f"configuration of run {record.name}",
                    "a setting has the name",
                    "the run would not be the same run with another configuration",
                    "give the run another value by its command, or delete the run",
                )
            )
    if out.dry_run:
        if every:
            rehearse(journal, every[0], lambda it: _clean_service(it, rename, out))
    else:
        with journal.database.writing() as connection:
            _clean_service(connection, rename, out)
    out.runs = touched
    tell_copies(journal, out)


def _is_touched(journal: Journal, storage: str, run: str, redaction: Redaction) -> bool:
    trial = Certificate("", "", {}, "", 0.0, dry_run=True)
    redact_run(journal, storage, run, None, redaction, trial)
    # A page of the run or files of unfinished steps alone say nothing of the person.
    return any(line.what in ("rows", "rows with it") for line in trial.removed)


def _clean_service(connection: sa.Connection, rename: Rename, out: Certificate) -> None:
    """Remove tokens and links of the person, and the name from rows that belong to no run."""
    held = sa.select(tokens.c.id).where(tokens.c.label == rename.name)
    for belonging in (sessions, token_usage):
        connection.execute(sa.delete(belonging).where(belonging.c.token.in_(held)))
    for table, column in ((tokens, tokens.c.label), (invites, invites.c.person)):
        gone = connection.execute(sa.delete(table).where(column == rename.name)).rowcount
        out.add(Removed(f"journal: {table.name}", "rows of the person", gone))
    entries = redact_within(connection, rename.name)
    out.add(Removed("audit log", "token, name and address in entries", entries))
    clean_tables(connection, None, Redaction(rename=rename), out)
    titled: dict[str, Any] = {}
    for row in connection.execute(sa.select(runs.c.name, runs.c.title)).all():
        if row.title and (new := rename.words(row.title)) != row.title:
            titled[row.name] = new
    for name, title in titled.items():
        connection.execute(sa.update(runs).where(runs.c.name == name).values(title=title))
    out.add(Removed("journal: runs", "titles", len(titled)))
