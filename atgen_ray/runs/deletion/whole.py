"""Deletion of whole runs, and of uploaded files."""

from contextlib import suppress

import pyarrow.compute as pc
import sqlalchemy as sa

from atgen_ray.annotation.disclosure import list_remote
from atgen_ray.annotation.providers.base import ProviderError
from atgen_ray.annotation.registry import build_provider
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.records import TOMBSTONE
from atgen_ray.runs.deletion.caches import clean_caches, drop_copies
from atgen_ray.runs.deletion.certificate import Certificate, Remaining, Removed
from atgen_ray.runs.deletion.examples import check_free, read_config, tell_copies, tell_source
from atgen_ray.runs.deletion.providers import forget_remote, list_open_jobs
from atgen_ray.runs.deletion.redaction import list_strings
from atgen_ray.runs.deletion.search import list_tables
from atgen_ray.store.additions import list_sources
from atgen_ray.store.housekeeping import count_rows, remove_run
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder, open_storage
from atgen_ray.store.tables import api_files, uploads

UPLOADS = "uploads"


def delete_run(journal: Journal, storage: str, run: str, out: Certificate) -> None:
    """Delete a run: its folder, its rows, what caches and providers have of it, and its place
    among what tokens may see.

    Raises:
        RunBusyError: a controller drives it.
    """
    out.runs = [run]
    if not journal.has_run(run):
        return  # a deletion that was cut short after its last transaction
    check_free(journal, [run])
    config = read_config(journal, run, storage)
    tell_copies(journal, out)
    if config is not None:
        for key, annotator in list_remote(config):
            for remote in list_open_jobs(journal, run, annotator):
                why = "it is under way"
                if not out.dry_run:
                    with suppress(UserError, ProviderError):
                        build_provider(annotator, run, key).cancel(remote)
                        why = "it was under way and is asked to end"
                do = "delete it there once it has ended"
                out.add(Remaining(f"provider ({key})", f"batch job {remote}", why, do))
        forget_remote(journal, config, None, out, out.dry_run)
        tell_source(config, out, list_sources(journal, run))
    for record in journal.runs():
        if str(record.config.get("fork_from") or "").partition(":")[0] == run:
            out.add(
                Remaining(
                    f"run {record.name}",
                    "pool and labels that it took over",
                    "it is a run of its own",
                    f"atgen-ray delete run {record.name}",
                )
            )
    folder = RunFolder(storage, run)
    roots = [config.cache] if config is not None and config.cache else []
    clean_caches([storage, *roots], _find_own_contents(journal, storage, run), out, out.dry_run)
    sizes = folder.list_sizes()
    drop_copies(folder, [rel for rel in sizes if rel[0] != "."], out, out.dry_run)
    out.add(Removed(f"runs/{run}", f"files of {sum(sizes.values())} bytes", len(sizes)))
    for table, count in count_rows(journal, run).items():
        out.add(Removed(f"journal: {table}", "rows", count))
    if not out.dry_run:
        remove_run(journal, storage, run)


def delete_upload(journal: Journal, storage: str, name: str, out: Certificate) -> None:
    """Delete an uploaded file; the runs that read it keep their copies of its rows.

    Raises:
        UserError: there is no such upload.
    """
    fs, root = open_storage(storage)
    known = list_uploads(storage)
    path = f"{root}/{UPLOADS}/{name}"
    if name not in known:
        hint = nearest(name, known) if known else "; there are none"
        raise UserError(f"upload {name[:80]!r} is unknown{hint}")
    files = [path]
    if fs.exists(f"{root}/{UPLOADS}"):  # half-written copies of it
        asides = fs.ls(f"{root}/{UPLOADS}", detail=False)
        files += [each for each in asides if each.rpartition("/")[2].startswith(f".{name}.")]
    size = fs.info(path)["size"]
    out.add(Removed(f"{UPLOADS}/{name}", f"files of {size} bytes", len(files)))
    if not out.dry_run:
        for each in files:
            fs.rm_file(each)
        with journal.database.writing() as connection:
            connection.execute(sa.delete(uploads).where(uploads.c.name == name))
            connection.execute(sa.delete(api_files).where(api_files.c.upload == name))
    for record in journal.runs():
        read = [*list_strings(record.config), *list_sources(journal, record.name)]
        if any(text.endswith(f"{UPLOADS}/{name}") for text in read):
            out.add(
                Remaining(
                    f"run {record.name}",
                    "rows that it read from the file",
                    "they are examples of the run",
                    f"atgen-ray delete run {record.name}, or example ID",
                )
            )
            if record.name not in out.runs:
                out.runs.append(record.name)
    tell_copies(journal, out)


def list_uploads(storage: str) -> list[str]:
    """Return the names of the uploaded files."""
    fs, root = open_storage(storage)
    try:
        paths = fs.ls(f"{root}/{UPLOADS}", detail=False)
    except FileNotFoundError:
        return []
    names = (path.rstrip("/").rpartition("/")[2] for path in paths)
    return sorted(name for name in names if not name.startswith("."))


def _find_own_contents(journal: Journal, storage: str, run: str) -> frozenset[str]:
    """Return the content hashes that no other run of the storage has."""
    own = _read_contents(RunFolder(storage, run))
    for record in journal.runs() if own else []:
        if record.name != run:
            own -= _read_contents(RunFolder(storage, record.name))
    return frozenset(own - {TOMBSTONE})


def _read_contents(folder: RunFolder) -> set[str]:
    found = set[str]()
    for rel in list_tables(folder):
        for part in folder.scan_table(rel, ["content"]):
            found.update(pc.unique(part["content"]).to_pylist())
    return found
