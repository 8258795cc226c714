"""Files of a run on local disk, or on a disk that nodes share.

- A write is staged under `.staging` of the same root, flushed with fsync and renamed into place. A
  removal is a rename to there. So a kill leaves the old content, the new content or nothing.
- A controller stages in a folder of its own. The one that takes the lease moves those of all others
  away, so that a rename of theirs fails from then on (`fenced`).
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pyarrow as pa
from fsspec import AbstractFileSystem

from atgen_ray.core.errors import LeaseLostError
from atgen_ray.core.stored import Stored, at_path
from atgen_ray.store.stored_files import StoredFiles

STAGING = ".staging"
# What a rename says where a folder, or a file in place of a folder, has the name already.
TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


class LocalFiles(StoredFiles):
    """The files below `root`, an absolute path free of symlinks."""

    def __init__(self, fs: AbstractFileSystem, root: str, run: str) -> None:
        super().__init__(fs, root, run)
        self._area = ""  # of the staging folder that the writes of a fenced folder go through

    def fenced(self, area: str, check: Callable[[], object]) -> Self:
        fenced = copy(self)
        fenced._area = area
        fenced._check = check
        with self.explained():
            staging = Path(self.root, STAGING)
            Path(staging, area).mkdir(parents=True)
            # In this order: of two controllers that do this at once, the one without the lease
            # either sees the other's folder, and then fails the check, or is seen by the other.
            others = [path for path in staging.iterdir() if path.name != area]
            check()
            for other in others:
                retired = fenced._staging_path()
                with suppress(FileNotFoundError):
                    _rename(other, retired)
                    _delete(retired)
        return fenced

    def below(self, *parts: str) -> Self:
        inner = super().below(*parts)
        inner._area = ""
        return inner

    def is_inside(self, rel: str) -> bool:
        return Path(os.path.realpath(self.locate(rel))).is_relative_to(self.root)

    def exists(self, rel: str) -> bool:
        return Path(self.locate(rel)).exists()

    def open(self, rel: str) -> Any:
        return pa.OSFile(self.locate(rel))

    def list_sizes(self) -> dict[str, int]:
        return dict(_scan(self.root))

    def refer(self, rel: str) -> Stored:
        path = Path(self.locate(rel))
        if not path.exists():
            raise FileNotFoundError(path)
        return at_path(path)

    def write(self, rel: str, data: bytes) -> None:
        with self._staged(rel) as staged:
            staged.write_bytes(data)

    @contextmanager
    def whole_file(self, rel: str) -> Iterator[Path]:
        with self.explained(), self._staged(rel) as staged:
            yield staged

    @contextmanager
    def publish(self, rel: str) -> Iterator[Path]:
        with self.explained(), self._staged(rel) as staged:
            staged.mkdir()
            yield staged
        self._note_folder(rel)

    def take_in(self, made: str, rel: str) -> None:
        source = Path(made, rel)
        target = Path(self.locate(rel))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                source.rename(target)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
                # No step that the journal names: an older version, or the time before an older
                # journal was restored, has left it.
                self._retire(target)
                source.rename(target)
        except FileNotFoundError:  # another controller has moved it
            self._require_staging()
            return
        self._sync_parents(target)

    def move(self, rel: str, to: str) -> None:
        target = Path(self.locate(to))
        if not target.exists():
            _rename(Path(self.locate(rel)), target)

    def discard(self, rel: str, trash: str) -> None:
        target = Path(self.root, trash, rel)
        target.parent.mkdir(parents=True, exist_ok=True)
        _rename(Path(self.locate(rel)), target)
        with suppress(OSError):  # a folder that is empty now; it would look like an output
            for parent in Path(rel).parents:
                Path(self.root, parent).rmdir()

    def keep(self, rel: str, trash: str) -> None:
        target = Path(self.root, trash, rel)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.fs.copy(self.locate(rel), str(target))

    def erase(self, rel: str) -> None:
        self._retire(Path(self.locate(rel)))
        with suppress(OSError):
            for parent in Path(rel).parents[:-1]:
                Path(self.root, parent).rmdir()

    def remove(self, rel: str) -> None:
        target = Path(self.locate(rel))
        if target.exists():
            self._retire(target)
            _sync(target.parent)

    def sweep(self) -> None:
        _delete(Path(self.root) / STAGING)

    @contextmanager
    def _staged(self, rel: str) -> Iterator[Path]:
        """Yield a path on the same disk; on a clean exit flush it and rename it to `rel`."""
        staged = self._staging_path()
        target = Path(self.locate(rel))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield staged
            self._note_staged(rel, staged)
            for path in [staged, *staged.rglob("*")]:
                _sync(path)
            if target.is_dir() or (staged.is_dir() and target.exists()):
                self._retire(target)  # rename replaces a file by a file only
            _rename(staged, target)
            self._sync_parents(target)
        except FileNotFoundError:
            self._require_staging()
            raise
        finally:
            _delete(staged)

    def _staging_path(self) -> Path:
        path = Path(self.root, STAGING, self._area, uuid4().hex)
        if not self._area:  # else it is made once: a controller without the lease has none
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _require_staging(self) -> None:
        """Raise LeaseLostError if another controller has fenced the folder."""
        if self._area and not Path(self.root, STAGING, self._area).exists():
            raise LeaseLostError(f"the storage of run '{self.run}' is another controller's now")

    def _retire(self, target: Path) -> None:
        """Move a whole folder or file to the staging folder in one step, then delete it."""
        retired = self._staging_path()
        try:
            _rename(target, retired)
        except FileNotFoundError:
            self._require_staging()
            raise
        _delete(retired)

    def _sync_parents(self, target: Path) -> None:
        """Flush the folders above `target`, which may be new too, up to the storage root."""
        parents = [*target.parents]
        for folder in parents[: parents.index(Path(self.root).parents[1]) + 1]:
            _sync(folder)

    def _note_staged(self, rel: str, staged: Path) -> None:
        """Keep size and digest of what was written for `rel`, a file or a folder."""
        if staged.is_file():
            self._note_file(rel, staged)
            return
        for path in sorted(staged.rglob("*")):
            if path.is_file():
                self._note_file(f"{rel}/{path.relative_to(staged).as_posix()}", path)


def _rename(source: Path, target: Path) -> None:
    """Rename a file or folder. NFS may say that it is not there although the rename was done, where
    the server's answer was lost.
    """
    known = source.lstat()
    try:
        source.rename(target)
    except FileNotFoundError:
        if not (target.exists() and os.path.samestat(known, target.lstat())):
            raise


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a power cut cannot lose what is then renamed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _scan(root: str) -> Iterator[tuple[str, int]]:
    """Yield the path of every file below `root`, relative to it, with its size."""
    waiting = [""]
    while waiting:
        at = waiting.pop()
        with suppress(FileNotFoundError), os.scandir(f"{root}/{at}") as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{at}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    yield f"{at}{entry.name}", entry.stat(follow_symlinks=False).st_size


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
