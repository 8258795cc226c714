"""Files of a storage that other accounts of the machine may read or write."""

from collections.abc import Iterable
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from atgen_ray.core.private_files import find_open, tighten
from atgen_ray.runs.doctor.finding import Finding, name_some
from atgen_ray.store.run_folder import open_storage

OPEN = "open-files"


def find_open_files(storage: str) -> Iterable[Finding]:
    """Yield one finding where others may read or write files of the storage."""
    root = _local(storage)
    found = [] if root is None else find_open(root)
    if found and root is not None:
        names = [str(path.relative_to(root)) for path in found]
        yield Finding(
            None,
            OPEN,
            f"{len(found)} files and folders can be read or written by other accounts: "
            f"{name_some(names)}",
            "--repair takes their rights away; where accounts share a storage, set ATGEN_UMASK",
            repairable=True,
        )


def close_files(storage: str) -> int:
    """Take the rights of others from the files of the storage that are ours; return their
    number.
    """
    root = _local(storage)
    return 0 if root is None else sum(tighten(path) for path in find_open(root))


def _local(storage: str) -> Path | None:
    fs, root = open_storage(storage)
    return Path(root) if isinstance(fs, LocalFileSystem) and Path(root).is_dir() else None
