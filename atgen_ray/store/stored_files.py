"""What a run's folder asks of the place where its files are: a disk (`LocalFiles`) or an object
store (`ObjectFiles`).

A path is relative to the root, with forward slashes; `RunFolder` has checked it.
"""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from fsspec import AbstractFileSystem

from atgen_ray.core.stored import Stored, explain_trouble


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of a file that was written."""

    size: int
    digest: str


@dataclass
class WrittenFiles:
    """The files that were written and the folders that were published through a folder."""

    files: dict[str, FileRecord] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


class StoredFiles(ABC):
    """The files of `run` below `root`. Every write appears whole or not at all."""

    def __init__(self, fs: AbstractFileSystem, root: str, run: str) -> None:
        self.fs = fs
        self.root = root
        self.run = run
        self.written: WrittenFiles | None = None  # what was written, if that is kept
        self._shown = root  # what messages name: the run's folder, also of a part of it
        self._check: Callable[[], object] | None = None  # of a fenced folder: is the lease ours?

    def __getstate__(self) -> dict[str, Any]:
        # Workers get the folder too; the lease stays with the controller.
        return self.__dict__ | {"_check": None}

    def explained(self) -> AbstractContextManager[None]:
        """Turn errors of the disk or store itself, such as a full disk, into UserErrors."""
        return explain_trouble(self.fs, self._shown)

    @abstractmethod
    def fenced(self, area: str, check: Callable[[], object]) -> Self:
        """See `RunFolder.fenced`."""

    def below(self, *parts: str) -> Self:
        """See `RunFolder.below`."""
        inner = copy(self)
        inner.root = "/".join((self.root, *parts))
        inner.written = WrittenFiles()
        inner._check = None
        return inner

    def locate(self, rel: str) -> str:
        """Return the path of `rel` on the file system."""
        return f"{self.root}/{rel}"

    @abstractmethod
    def is_inside(self, rel: str) -> bool:
        """Return whether `rel` is below the root, wherever links lead."""

    @abstractmethod
    def exists(self, rel: str) -> bool:
        """See `RunFolder.exists`."""

    @abstractmethod
    def open(self, rel: str) -> Any:
        """Open a file that pyarrow reads."""

    def read(self, rel: str) -> bytes:
        """Return the content of a file."""
        return self.fs.cat_file(self.locate(rel))

    def scan(self, rel: str, piece: int) -> Iterator[bytes]:
        """Yield the content of a file in pieces."""
        with self.fs.open(self.locate(rel), "rb") as file:
            while data := file.read(piece):
                yield data

    def digest(self, rel: str) -> str:
        """Return the SHA-256 of a file."""
        with self.fs.open(self.locate(rel), "rb") as file:
            return _digest(file)

    def list(self, rel: str) -> Sequence[str]:
        """Return the names of what is in a folder, or in the root for an empty `rel`."""
        try:
            paths = self.fs.ls(self.locate(rel) if rel else self.root, detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    @abstractmethod
    def list_sizes(self) -> dict[str, int]:
        """See `RunFolder.list_sizes`."""

    @abstractmethod
    def refer(self, rel: str) -> Stored:
        """See `RunFolder.refer`."""

    @abstractmethod
    def write(self, rel: str, data: bytes) -> None:
        """Write a file."""

    @abstractmethod
    def whole_file(self, rel: str) -> AbstractContextManager[Path]:
        """Yield a path on this disk; on a clean exit what is written there appears at `rel`."""

    @abstractmethod
    def publish(self, rel: str) -> AbstractContextManager[Path]:
        """See `RunFolder.publish`."""

    @abstractmethod
    def take_in(self, made: str, rel: str) -> None:
        """Move `rel` of the root `made` to the same name here; see `RunFolder.take_in`."""

    @abstractmethod
    def move(self, rel: str, to: str) -> None:
        """See `RunFolder.move`."""

    @abstractmethod
    def discard(self, rel: str, trash: str) -> None:
        """Move a file below the folder `trash`. Raise FileNotFoundError where it is not there."""

    @abstractmethod
    def keep(self, rel: str, trash: str) -> None:
        """Copy a file below the folder `trash`."""

    @abstractmethod
    def erase(self, rel: str) -> None:
        """Remove a file and the folders that are empty then."""

    @abstractmethod
    def remove(self, rel: str) -> None:
        """See `RunFolder.remove`."""

    def remove_all(self) -> None:
        """Remove the root with all that is in it."""
        if self.fs.exists(self.root):
            self.fs.rm(self.root, recursive=True)

    @abstractmethod
    def sweep(self) -> None:
        """See `RunFolder.sweep`."""

    def _note_file(self, rel: str, path: Path) -> None:
        """Keep size and digest of what was written for `rel`, and is at `path` now."""
        if self.written is not None:
            with path.open("rb") as file:
                self.written.files[rel] = FileRecord(path.stat().st_size, _digest(file))

    def _note_bytes(self, rel: str, data: bytes) -> None:
        if self.written is not None:
            self.written.files[rel] = FileRecord(len(data), _digest(io.BytesIO(data)))

    def _note_folder(self, rel: str) -> None:
        if self.written is not None:
            self.written.folders.append(rel)


def _digest(content: IO[bytes]) -> str:
    """Return the SHA-256 of what a file has from its present position on."""
    found = hashlib.sha256()
    while piece := content.read(1 << 20):
        found.update(piece)
    return found.hexdigest()
