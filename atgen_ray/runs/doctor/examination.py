"""Examination of all runs of a storage, or of one."""

import re
from collections.abc import Iterable

from atgen_ray.core.errors import UserError
from atgen_ray.runs.doctor.files import check_orphans, check_outputs, check_views, read_files
from atgen_ray.runs.doctor.finding import Diagnosis, Finding
from atgen_ray.runs.doctor.permissions import find_open_files
from atgen_ray.runs.doctor.records import check_records, read_epoch
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder, open_storage

# Caches that runs share lie where runs do, if the storage is the cache too.
CACHE = re.compile(r"(embeddings|outputs)-[0-9a-f]{24}")


def examine(
    journal: Journal, storage: str, run: str | None = None, deep: bool = False
) -> Diagnosis:
    """Hold the journal against the storage and the ledger, and write nothing.

    Read are the events, the list of each run's folder, `versions.json`, the number of lines of
    `labeled.jsonl` (up to 64 MiB), and sums over the tables of labels, requests and money; with
    `deep` also each label, and every file whose digest is known.

    Raises:
        UserError: there is no run of that name.
    """
    diagnosis = Diagnosis()
    names = [record.name for record in journal.runs()] if run is None else [journal.run(run).name]
    for name in names:
        diagnosis.runs += 1
        folder = RunFolder(storage, name)
        files = read_files(journal, name, folder, read_epoch(journal, name))
        diagnosis.files += len(files.sizes)
        check_records(journal, name, diagnosis)
        check_outputs(files, diagnosis, deep)
        check_orphans(files, diagnosis)
        check_views(journal, files, diagnosis, deep)
    if run is None:
        diagnosis.add(*_find_strangers(storage, names))
        diagnosis.add(*find_open_files(storage))
    return diagnosis


def _find_strangers(storage: str, names: Iterable[str]) -> Iterable[Finding]:
    """Yield the folders of runs that the journal does not have."""
    known = set(names)
    fs, root = open_storage(storage)
    try:
        paths = fs.ls(f"{root}/runs", detail=False)
    except FileNotFoundError:
        return
    for name in sorted(path.rstrip("/").rpartition("/")[2] for path in paths):
        if name in known or CACHE.fullmatch(name) or name.startswith("."):
            continue
        try:
            RunFolder(storage, name)
        except UserError:
            continue  # no run has such a name
        yield Finding(
            None,
            "unknown-run",
            f"runs/{name}: in the storage, but the journal has no run of that name",
            "if the journal is an older one that was restored, restore a newer one; else the "
            "folder is of another journal, or may be deleted by hand",
        )
