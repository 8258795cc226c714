"""References to stored files and folders, which every node of a cluster can follow.

A path on the disk of one node means nothing on another. So workers are given a `Stored`, and call
`local` where they read: what is on disk is read in place, what is in an object store is fetched
once a node. For example

    stored = folder.refer("rounds/001/adapter")     # in the controller
    PeftModel.from_pretrained(model, stored.local())  # in a worker
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from atgen_ray.core.errors import StorageFullError, StorageUnavailableError, UserError
from atgen_ray.core.hashing import digest
from atgen_ray.core.node_cache import fetch_once
from atgen_ray.core.strict_json import encode_json

# Error numbers of a disk that is full, read-only, forbidden or broken; an object store may also be
# overloaded or out of reach, for which s3fs has numbers of its own.
FULL = {errno.ENOSPC, errno.EDQUOT}
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
OBJECT_STORE = DISK | {errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT}
DRIVERS = {"aiobotocore", "aiohttp", "botocore", "gcsfs"}


@dataclass(frozen=True)
class Stored:
    """A file or folder on a disk that the nodes share, or one version of it in an object store.

    Attributes:
        path: on `filesystem`.
        version: of the content; empty for what is on disk.
        files: to fetch of a folder in an object store, relative to it; None for a single file.
        record: path of the JSON object whose digest is the version; None where the version is
            that of a listing.
    """

    filesystem: AbstractFileSystem = field(repr=False)
    path: str
    version: str = ""
    files: tuple[str, ...] | None = None
    record: str | None = None

    def local(self) -> Path:
        """Return the path on the disk of this node, which stays until this process ends.

        Raises:
            FileNotFoundError: it is gone, or another version has taken its place.
            StorageUnavailableError: the disk or store cannot be used.
            UserError: the store names a file outside the folder.
        """
        if not self.version:
            path = Path(self.path)
            if not path.exists():
                raise FileNotFoundError(self.path)
            return path
        copy = digest(self.version, *(f"/{file}" for file in self.files or ()), size=32)
        with explain_trouble(self.filesystem, self.path):
            return fetch_once(copy, self.path.rpartition("/")[2], self._download)

    def leave_out(self, endings: tuple[str, ...]) -> "Stored":
        """Return the reference to the folder without the files that have one of `endings`; a
        single file is returned as it is.
        """
        if self.files is None:
            return self
        return replace(self, files=tuple(file for file in self.files if not file.endswith(endings)))

    def holds(self, file: str) -> bool:
        """Return whether the folder has `file`, by what the reference says and without fetching."""
        return (Path(self.path) / file).is_file() if self.files is None else file in self.files

    def _download(self, target: Path) -> None:
        """Copy this version to `target`."""
        if self.files is None:
            self.filesystem.get_file(self.path, str(target))
        else:
            target.mkdir()
            copies = [target / file for file in self.files]
            for copy in copies:
                # Whoever writes to the bucket must not reach the rest of this disk.
                if not copy.resolve().is_relative_to(target.resolve()):
                    raise UserError(f"'{self.path}' names a file outside it: {str(copy)[:200]!r}")
                copy.parent.mkdir(parents=True, exist_ok=True)
            sources = [f"{self.path}/{file}" for file in self.files]
            self.filesystem.get(sources, [str(copy) for copy in copies])
        if self._find_version() != self.version:  # the objects may be of both versions
            raise FileNotFoundError(self.path)

    def _find_version(self) -> str:
        """Return the version that the store has now."""
        if self.record is not None:
            return digest_record(json.loads(self.filesystem.cat_file(self.record)))
        return find_stored(self.filesystem, self.path).version


def at_path(path: Path) -> Stored:
    """Return the reference to a path that all nodes have."""
    return Stored(LocalFileSystem(), str(path))


def digest_record(record: Mapping[str, Any]) -> str:
    """Return the version of the folder that `record` describes."""
    return digest(encode_json(record), size=32, algorithm="sha256")


def find_stored(filesystem: AbstractFileSystem, path: str) -> Stored:
    """Return the reference to what is at `path` now, in the version that the properties of its
    objects give.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if isinstance(filesystem, LocalFileSystem):
        return at_path(Path(path))
    path = path.rstrip("/")
    if filesystem.isfile(path):
        return Stored(filesystem, path, digest(filesystem.ukey(path), size=32))
    files = sorted(
        found.removeprefix(f"{path}/")
        for found in filesystem.find(path)
        if not found.endswith("/")  # an empty object that stands for a folder
    )
    if not files:
        raise FileNotFoundError(path)
    keys = [f"{file}\0{filesystem.ukey(f'{path}/{file}')}\n" for file in files]
    return Stored(filesystem, path, digest(*keys, size=32), tuple(files))


def open_url(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system behind `url`, a path or URL, and the path on it.

    Raises:
        ImportError, ValueError: the protocol is unknown, or its driver is not installed.
    """
    # Listings are not cached: another process may have written since.
    filesystem, path = url_to_fs(url, use_listings_cache=False)
    if isinstance(filesystem, LocalFileSystem):
        return filesystem, os.path.realpath(path)
    return filesystem, path.rstrip("/")


@contextmanager
def explain_trouble(filesystem: AbstractFileSystem, root: str) -> Iterator[None]:
    """Turn errors of the disk or store itself in the block, such as a full disk, into UserErrors.

    Raises:
        StorageUnavailableError: the block raised such an error.
    """
    is_local = isinstance(filesystem, LocalFileSystem)
    try:
        yield
    except Exception as error:
        if not _is_trouble(error, DISK if is_local else OBJECT_STORE):
            raise
        # Only the protocol of an object store is shown: its URL may carry a key.
        shown = root if is_local else f"{filesystem.unstrip_protocol('').partition('://')[0]}://..."
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        full = getattr(error, "errno", None) in FULL
        kind = StorageFullError if full else StorageUnavailableError
        raise kind(f"storage {shown} cannot be used: {reason}") from error


def _is_trouble(error: Exception, codes: set[int]) -> bool:
    """Return whether `error` means that the disk or store cannot be used.

    Drivers of object stores raise exceptions of their own for network errors.
    """
    if isinstance(error, OSError):
        return error.errno in codes or isinstance(error, PermissionError)
    return type(error).__module__.partition(".")[0] in DRIVERS
