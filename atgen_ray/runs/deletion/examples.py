"""Deletion of examples and of labels, in every run that has them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import uuid4

import sqlalchemy as sa

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import parse_config, renew_config
from atgen_ray.core.errors import RunBusyError, UserError
from atgen_ray.runs.deletion.caches import clean_caches, drop_copies
from atgen_ray.runs.deletion.certificate import Certificate, Remaining
from atgen_ray.runs.deletion.outputs import is_rewritten
from atgen_ray.runs.deletion.providers import forget_remote
from atgen_ray.runs.deletion.redaction import Redaction
from atgen_ray.runs.deletion.rows import clean_tables, purge_examples
from atgen_ray.runs.deletion.run_files import count_in_files, find_left, redact_files
from atgen_ray.runs.deletion.search import Found, find_examples
from atgen_ray.store.additions import list_sources
from atgen_ray.store.deletions import enter_certificate
from atgen_ray.store.exports import list_exports
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import name_attempt

LEASE_SECONDS = 900.0
RARE = 32  # characters from which on an answer is looked for outside its own rows
SHOWN = 5  # ids in one line


class _Rehearsed(Exception):
    """Ends a transaction of a rehearsal, which changes nothing."""


def check_free(journal: Journal, runs: Sequence[str]) -> None:
    """Raise RunBusyError if a controller drives one of `runs`."""
    for run in runs:
        if journal.has_live_controller(run):
            raise RunBusyError(
                f"run '{run}' is driven by a controller: stop it first, as by `atgen-ray runs stop "
                f"{run}`, then give the same command again"
            )


def delete_examples(
    journal: Journal, storage: str, redaction: Redaction, found: Found, out: Certificate
) -> None:
    """Delete what `redaction` says in the runs of `out`; a rehearsal only fills the certificate."""
    check_free(journal, out.runs)
    configs = {run: read_config(journal, run, storage) for run in out.runs}
    for run in out.runs:
        config = configs[run]
        if config is None:
            out.add(
                Remaining(
                    f"providers of run {run}",
                    "what its models were sent",
                    "its configuration is of another version",
                    "delete it at the providers by hand",
                )
            )
        else:
            forget_remote(journal, config, redaction.ids, out, out.dry_run)
    roots = [config.cache for config in configs.values() if config and config.cache]
    clean_caches([storage, *roots], redaction.contents, out, out.dry_run)
    for run in out.runs:
        redact_run(journal, storage, run, configs[run], redaction, out)
    _tell_what_stays(journal, configs, found, out)


def redact_run(
    journal: Journal,
    storage: str,
    run: str,
    config: RunConfig | None,
    redaction: Redaction,
    out: Certificate,
) -> None:
    """Take what goes out of the files and rows of one run."""

    def purge(connection: sa.Connection) -> None:
        if redaction.ids:
            purge_examples(journal, connection, run, redaction, out)
        clean_tables(connection, run, redaction, out)
        if not out.dry_run:  # with what it says, so that a kill leaves neither alone
            enter_certificate(connection, out.id, out.as_json())

    folder = RunFolder(storage, run)
    changed = [rel for rel in folder.list_sizes() if is_rewritten(rel) and rel[0] != "."]
    drop_copies(folder, changed, out, out.dry_run)
    if out.dry_run:
        count_in_files(folder, redaction, out)
        rehearse(journal, run, purge)
        return
    with hold(journal, run) as lease:
        fenced = folder.fenced(name_attempt(lease), lease.renew)
        redact_files(config, journal, lease, fenced, redaction, out, purge)
    find_left(folder, redaction, out)


def rehearse(journal: Journal, run: str, act: Callable[[sa.Connection], None]) -> None:
    """Do `act` in a transaction that is rolled back."""

    def undone() -> None:
        with journal.run_transaction(run) as connection:
            act(connection)
            raise _Rehearsed

    with suppress(_Rehearsed):
        undone()


@contextmanager
def hold(journal: Journal, run: str) -> Iterator[Lease]:
    """Hold the lease of a run, so that no controller takes it meanwhile."""
    lease = journal.acquire(run, ProcessIdentity(f"deletion-{uuid4().hex}"), LEASE_SECONDS)
    try:
        yield lease
    finally:
        lease.release()


def read_config(journal: Journal, run: str, storage: str) -> RunConfig | None:
    """Return the configuration of a run; None for one of another version."""
    try:
        tree = renew_config(journal.run(run).config)
        return parse_config(tree | {"name": run, "storage": storage}, labels=False)
    except (UserError, KeyError, TypeError, ValueError):
        return None


def describe_examples(
    journal: Journal, storage: str, ids: frozenset[str], annotator: str | None, runs: Sequence[str]
) -> tuple[Redaction, Found]:
    """Return what is to be taken out, and where it was found."""
    found = find_examples(journal, storage, ids, annotator, runs)
    texts = found.texts if annotator is None else set[str]()
    # A short answer may be somebody else's as well.
    texts = texts | {text for text in found.answers if len(text) >= RARE}
    contents = found.contents if annotator is None else set[str]()
    return Redaction(ids, annotator, frozenset(contents), frozenset(texts)), found


def _tell_what_stays(
    journal: Journal, configs: dict[str, RunConfig | None], found: Found, out: Certificate
) -> None:
    for run, first in found.rounds.items():
        trained = [
            event.round or 0
            for event in journal.steps(run)
            if event.step == "training" and (event.round or 0) >= first
        ]
        for round in trained:
            out.add(
                Remaining(
                    f"runs/{run}/{round_folder(round)}/adapter",
                    "weights of an adapter",
                    "they were trained on it; nothing can be taken out of weights",
                    f"train anew from the labels that are left (atgen-ray run CONFIG --name NEW "
                    f"--from {run}), then atgen-ray delete run {run}",
                )
            )
    for what, ids in (("same text", found.shared), ("nearly the same text", found.duplicates)):
        if ids:
            some = ", ".join(sorted(ids)[:SHOWN]) + (" and more" if len(ids) > SHOWN else "")
            out.add(
                Remaining(
                    "other examples",
                    f"{len(ids)} with the {what}: {some}",
                    "they are rows of their own in the source",
                    "delete them too, if they are meant",
                )
            )
    for run, config in configs.items():
        out.add(
            Remaining(
                f"runs/{run}",
                "scores, picks and metrics that were computed with it",
                "they are numbers",
            )
        )
        if config is not None:
            tell_source(config, out, list_sources(journal, run))
    tell_copies(journal, out)


def tell_source(config: RunConfig, out: Certificate, added: Sequence[str]) -> None:
    """Add where the run read its rows, and those that were `added`."""
    sources = {source for source in (*config.data.locations.values(), *added) if source}
    for source in sorted(sources):
        out.add(
            Remaining(
                f"source {source}",
                "the row itself",
                "it was read there, and a new run would read it again",
                "delete it there too; an upload by: atgen-ray delete upload NAME",
            )
        )


def tell_copies(journal: Journal, out: Certificate) -> None:
    """Add the exports of the runs, and backups."""
    for export in list_exports(journal, out.runs):
        out.add(
            Remaining(
                export.place or f"sent to {export.by}",
                f"export of {export.rows} {export.what} of run {export.run} as {export.format}",
                "it left the house",
                "delete it where it is",
            )
        )
    out.add(
        Remaining(
            "backups",
            "of storage and journal",
            "they are out of reach from here",
            "delete again after a restore: atgen-ray delete list",
        )
    )
