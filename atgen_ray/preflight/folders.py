"""Checks of folders that the run writes: the storage, the cache of results, this user's cache and
Ray's temporary folder.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from platformdirs import user_cache_path

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.node_cache import read_limit
from atgen_ray.preflight.check import Check, Setting
from atgen_ray.ray_runtime.session import check_temporary_folder, is_private
from atgen_ray.store.run_folder import RunFolder

MARK = "first.txt"


def check_storage(setting: Setting) -> Iterator[str]:
    """Check that files can be written, renamed, read and removed in the run's storage, and in its
    cache if it has one.
    """
    config = setting.config
    for key, storage in (("storage", config.storage), ("cache", config.cache)):
        if storage is None:
            continue
        try:
            probe_storage(storage)
        except UserError as error:
            yield str(error).replace("storage", key, 1)


def probe_storage(storage: str) -> None:
    """Check that a file can be written, renamed into place, read and removed; leave nothing behind.

    Raises:
        UserError: it cannot; the message says why.
    """
    with _marked(storage):
        pass


@contextmanager
def mark_storage(config: RunConfig) -> Iterator[Check]:
    """Leave a file in the storage during the block, and yield the check by which another machine
    finds that it has the same storage.
    """
    with _marked(config.storage) as name:
        yield partial(check_shared, name=name)


def check_shared(setting: Setting, name: str) -> Iterator[str]:
    """Check that this machine has the storage with the file that `mark_storage` has left in the
    folder `name`.
    """
    storage = setting.config.storage
    if not RunFolder(storage, name).exists(MARK):
        yield (
            f"storage is '{storage}', a folder that not all machines of this Ray cluster share, "
            f"expected the absolute path of one that they do, or a URL as s3://BUCKET/FOLDER"
        )


@contextmanager
def _marked(storage: str) -> Iterator[str]:
    """Leave the file `MARK` in a new folder of the storage during the block, and yield its name."""
    name = f"preflight-{uuid4().hex}"
    folder = RunFolder(storage, name)
    root = Path(folder.root)
    made = [path for path in (root, *root.parents) if folder.is_local and not path.exists()]
    try:
        try:
            folder.write_text(MARK, "first")
            # The second write replaces the first: some stores give an old copy back.
            folder.write_text(MARK, name)
            found = folder.read_text(MARK)
        except OSError as error:
            raise UserError(
                f"storage {root.parents[1]} cannot be used: {error.strerror or error}"
            ) from error
        if found != name:
            raise UserError(f"storage {root.parents[1]} gives back something else than was written")
        yield name
    finally:
        with suppress(OSError, UserError):  # the write has raised what is wrong
            folder.remove(MARK)
            for path in ([root / ".staging"] if folder.is_local else []) + made:
                path.rmdir()


def check_user_folders(setting: Setting) -> Iterator[str]:
    """Check the user's cache, and the temporary folder of a Ray that is started here."""
    yield from check_user_cache(setting)
    if is_private():
        check_temporary_folder()


def check_user_cache(setting: Setting) -> Iterator[str]:
    """Check HOME, whose cache holds checkpoints and copies of what is stored, and their limit."""
    read_limit()
    cache = user_cache_path("atgen-ray")
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield (
            f"HOME is {os.environ.get('HOME', '')!r}, but {cache} cannot be made, where converted "
            f"checkpoints are "
            "kept: set HOME or XDG_CACHE_HOME to a folder that can be written"
        )
