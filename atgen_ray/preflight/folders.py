"""Checks of folders that the run writes: the storage, the cache of results, this user's cache and
Ray's temporary folder.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from platformdirs import user_cache_path

from atgen_ray.core.errors import UserError
from atgen_ray.preflight.check import Setting
from atgen_ray.ray_runtime.session import check_temporary_folder, is_private
from atgen_ray.store.run_folder import RunFolder


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
    name = f"preflight-{uuid4().hex}"
    folder = RunFolder(storage, name)
    root = Path(folder.root)
    made = [path for path in (root, *root.parents) if folder.is_local and not path.exists()]
    try:
        folder.write_text("first.txt", "first")
        # The second write replaces the first: some stores give an old copy back.
        folder.write_text("first.txt", name)
        if folder.read_text("first.txt") != name:
            raise UserError(f"storage {root.parents[1]} gives back something else than was written")
    except OSError as error:
        raise UserError(
            f"storage {root.parents[1]} cannot be used: {error.strerror or error}"
        ) from error
    finally:
        with suppress(OSError, UserError):  # the write has raised what is wrong
            folder.remove("first.txt")
            for path in ([root / ".staging"] if folder.is_local else []) + made:
                path.rmdir()


def check_user_folders(setting: Setting) -> Iterator[str]:
    """Check HOME, whose cache holds converted checkpoints, and the temporary folder of a Ray that
    is started here.
    """
    cache = user_cache_path("atgen-ray")
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield (
            f"HOME is {os.environ.get('HOME', '')!r}, but {cache} cannot be made, where converted "
            f"checkpoints are "
            "kept: set HOME or XDG_CACHE_HOME to a folder that can be written"
        )
    if is_private():
        check_temporary_folder()
