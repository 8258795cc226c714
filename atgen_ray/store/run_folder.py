"""Folder of a run, on local disk or in an object store. Every name is checked, and every write
appears whole or not at all.

- How a file appears whole, and what a kill leaves behind, differs between a disk (`LocalFiles`) and
  an object store (`ObjectFiles`); `RunFolder.sweep` removes what is left.
- Once a controller has fenced the folder, one without the lease changes nothing in it
  (`RunFolder.fenced`).

For example `RunFolder("./atgen-runs", "demo").write_json("rounds/001/metrics.json", metrics)`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from atgen_ray.core.errors import UserError
from atgen_ray.core.names import check_run_name
from atgen_ray.core.stored import Stored, open_url
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.local_files import LocalFiles
from atgen_ray.store.object_files import ObjectFiles
from atgen_ray.store.parquet_files import read_all, read_range, scan_groups, write_groups
from atgen_ray.store.stored_files import FileRecord, StoredFiles

TRASH = ".trash"  # what the doctor has put away
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,127}")


def open_storage(storage: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system behind `storage` and the root path on it; on local disk an absolute
    path free of symlinks.

    Raises:
        UserError: the protocol is unknown, or its driver is not installed.
    """
    try:
        return open_url(storage)
    except (ImportError, ValueError) as error:
        # Not the URL itself, which may carry a key.
        raise UserError(
            f"storage is {storage.partition('://')[0]}://..., which cannot be opened: {error}"
        ) from None


class RunFolder:
    """The folder `<storage>/runs/<name>/`. `rel` is a path below it with forward slashes, such as
    `rounds/001/metrics.json`.

    Each part of `rel` has 1 to 128 of the characters `A-Z a-z 0-9 . _ = -` and starts with none of
    `. = -`. Every method that takes `rel` raises UserError for any other path, and for a symlink
    that leaves the folder. Reading what is not there raises FileNotFoundError; a disk or store that
    is full, read-only, forbidden or broken raises StorageUnavailableError.
    """

    def __init__(self, storage: str, name: str) -> None:
        check_run_name(name)
        self.name = name
        fs, root = open_storage(storage)
        kind = LocalFiles if isinstance(fs, LocalFileSystem) else ObjectFiles
        self._files: StoredFiles = kind(fs, f"{root}/runs/{name}", name)

    def fenced(self, area: str, check: Callable[[], object]) -> "RunFolder":
        """Return this folder for the controller that has just acquired the run's lease, and shut
        out all earlier ones.

        On disk every write and removal is a rename from or to the staging folder of one
        controller. The staging folders of earlier controllers are moved away here, so that a
        rename of theirs fails from now on, even one that has been prepared. In an object store a
        file is replaced only where it is still what it was before the lease was checked.

        Args:
            area: name of the staging folder, which no other controller has had.
            check: raises LeaseLostError unless the lease is the newest.

        Raises:
            LeaseLostError: another controller has the lease.
        """
        return self._over(self._files.fenced(area, check))

    def below(self, *parts: str) -> "RunFolder":
        """Return the folder `parts` below this one, to which nobody else writes; it keeps the size
        and digest of each file that is written through it (`written`).
        """
        return self._over(self._files.below(*parts))

    @property
    def fs(self) -> AbstractFileSystem:
        """Return the file system of the storage."""
        return self._files.fs

    @property
    def root(self) -> str:
        """Return the path of the folder on that file system."""
        return self._files.root

    @property
    def is_local(self) -> bool:
        """Return whether the folder is on a disk of this machine."""
        return isinstance(self._files, LocalFiles)

    @property
    def written(self) -> Mapping[str, FileRecord]:
        """Return the files that were written through this folder, if it comes from `below`."""
        return {} if self._files.written is None else self._files.written.files

    @property
    def folders(self) -> Sequence[str]:
        """Return the folders that were published through this folder, if it comes from `below`."""
        return [] if self._files.written is None else self._files.written.folders

    def __repr__(self) -> str:
        return f"RunFolder({self.name!r})"

    def path(self, rel: str) -> str:
        """Return the absolute path on local disk, or the full URL, for Ray Data and pyarrow."""
        path = self._files.locate(self._checked(rel))
        return path if self.is_local else self.fs.unstrip_protocol(path)

    def exists(self, rel: str) -> bool:
        """Return whether a file, or a folder made by `publish`, is there and whole.

        For any other folder the answer means nothing in an object store.
        """
        rel = self._checked(rel)
        with self._explained():
            return self._files.exists(rel)

    def refresh(self, rel: str) -> None:
        """Have this machine look again whether `rel` is there: a client of NFS remembers for a
        while that a name was free, and forgets it as the folder is read.
        """
        if self.is_local:
            with suppress(OSError):
                next(Path(self.path(rel)).parent.iterdir(), None)

    def write_table(self, rel: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        with self.table_writer(rel, table.schema) as add:
            add(table)

    @contextmanager
    def table_writer(self, rel: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
        """Yield a function that adds rows of `schema` to a Parquet file, which appears whole at the
        end of the block; it is never in memory as a whole.
        """
        with (
            self._files.whole_file(self._checked(rel)) as path,
            path.open("wb") as sink,  # a file of Python, whose errors tell that a disk is full
            write_groups(sink, schema) as add,
        ):
            yield add

    def read_table(self, rel: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a Parquet file; `columns` restricts what is read."""
        with self._parquet(rel) as file:
            return read_all(file, columns)

    def scan_table(self, rel: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield a Parquet file in pieces of at most `GROUP_ROWS` rows, in order."""
        with self._parquet(rel) as file:
            yield from scan_groups(file, columns)

    def count_rows(self, rel: str) -> int:
        """Return the rows of a Parquet file, of which only the foot is read."""
        with self._parquet(rel) as file:
            return int(file.metadata.num_rows)

    def read_range(
        self, rel: str, first: str, last: str, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows of a Parquet file, sorted by `id`, from `first` to `last`, and others
        near them: whole row groups.
        """
        with self._parquet(rel) as file:
            return read_range(file, first, last, columns)

    def list_columns(self, rel: str) -> list[str]:
        """Return the names of the columns of a Parquet file."""
        return list(self.read_schema(rel).names)

    def read_schema(self, rel: str) -> pa.Schema:
        """Return the schema of a Parquet file, of which only the foot is read."""
        with self._parquet(rel) as file:
            return file.schema_arrow

    def read_rows(
        self, rel: str, ids: Iterable[str], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the rows of a Parquet file whose `id` is one of `ids`, in the order of the
        file; `columns` has the `id`.
        """
        wanted = pa.array(sorted(set(ids)), pa.string())
        return [
            row
            for part in self.scan_table(rel, columns)
            for row in part.filter(pc.is_in(part["id"], wanted)).to_pylist()
        ]

    def write_json(self, rel: str, value: Any) -> None:
        """Write `encode_json(value)`, indented."""
        self.write_text(rel, encode_json(value, indent=2) + "\n")

    def read_json(self, rel: str) -> Any:
        """Read a JSON file."""
        return json.loads(self._read(rel))

    def write_jsonl(self, rel: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one `encode_json` object a line."""
        self.write_text(rel, "".join(encode_json(row) + "\n" for row in rows))

    def read_jsonl(self, rel: str) -> list[dict[str, Any]]:
        """Read one object a line."""
        # Not splitlines: U+2028 and its kin stand unescaped inside JSON strings.
        return [json.loads(line) for line in self._read(rel).split(b"\n") if line]

    def write_text(self, rel: str, text: str) -> None:
        """Write UTF-8 text as it is, line ends included."""
        self._write(rel, text.encode())

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Write bytes as they are."""
        self._write(rel, data)

    def read_text(self, rel: str) -> str:
        """Read UTF-8 text as it is."""
        return self._read(rel).decode()

    @contextmanager
    def publish(self, rel: str) -> Iterator[Path]:
        """Yield a local folder to fill; on a clean exit it appears whole at `rel`, in place of what
        was there.

        An exception inside the block leaves `rel` as it was.
        """
        with self._files.publish(self._checked(rel)) as folder:
            yield folder

    def take_in(self, aside: "RunFolder", rel: str) -> None:
        """Move the file, or the folder made by `publish`, at `rel` of `aside` to the same name
        here, in place of what was there; do nothing where it is not in `aside` any more.

        Two controllers may do this at once with the same `aside`.
        """
        aside._checked(rel)
        with self._explained():
            self._files.take_in(aside.root, self._checked(rel))

    def move(self, rel: str, to: str) -> None:
        """Rename a folder that `publish` did not make, unless `to` is there already or another
        controller has moved it; in an object store its files are copied.
        """
        with self._explained(), suppress(FileNotFoundError):
            self._files.move(self._checked(rel), self._checked(to))

    def discard(self, rel: str, trash: str) -> bool:
        """Move a file, whose path `list_sizes` gave, below the folder `trash` of the run's folder,
        and return whether it was there.
        """
        with self._explained():
            try:
                self._files.discard(rel, trash)
            except FileNotFoundError:
                return False
        return True

    def keep(self, rel: str, trash: str) -> bool:
        """Copy a file below the folder `trash` of the run's folder, and return whether it is
        there.
        """
        if not self.exists(rel):
            return False
        with self._explained():
            self._files.keep(rel, trash)
        return True

    def list_sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file of the folder by its path, those whose names
        begin with a point included.
        """
        with self._explained():
            return self._files.list_sizes()

    def scan_bytes(self, rel: str, piece: int = 1 << 20) -> Iterator[bytes]:
        """Yield the content of a file, whose path `list_sizes` gave, in pieces."""
        with self._explained():
            yield from self._files.scan(rel, piece)

    def erase(self, rel: str) -> None:
        """Remove a file, whose path `list_sizes` gave, and the folders that are empty then."""
        with self._explained(), suppress(FileNotFoundError):
            self._files.erase(rel)

    def digest(self, rel: str) -> str:
        """Return the SHA-256 of a file, which is read as a whole."""
        with self._explained():
            return self._files.digest(self._checked(rel))

    def refer(self, rel: str) -> Stored:
        """Return a reference to the present version of `rel`, which other nodes can follow.

        Raises:
            FileNotFoundError: it is not there, or a folder in an object store is being replaced.
        """
        with self._explained():
            return self._files.refer(self._checked(rel))

    def local(self, rel: str) -> Path:
        """Return `rel` on the disk of this node: itself, or a copy in the node's cache, which stays
        until this process ends.

        Raises:
            FileNotFoundError: it is not there, or a folder in an object store is being replaced.
        """
        return self.refer(rel).local()

    def list(self, rel: str = "") -> Sequence[str]:
        """Return the paths of the direct children of `rel`, sorted.

        In an object store these include folders that are half published; `exists` tells.
        """
        with self._explained():
            names = self._files.list(self._checked(rel) if rel else "")
        return sorted(f"{rel}/{name}" if rel else name for name in names if PART.fullmatch(name))

    def remove(self, rel: str) -> None:
        """Remove a file or folder whole; do nothing when it is not there."""
        with self._explained():
            self._files.remove(self._checked(rel))

    def remove_all(self) -> None:
        """Remove the whole folder of the run; do nothing when it is not there."""
        with self._explained():
            self._files.remove_all()

    def sweep(self) -> None:
        """Remove what killed writes left behind.

        Only the holder of the run's lease may call this: it would destroy the writes of others that
        are under way.
        """
        self._files.sweep()

    def _over(self, files: StoredFiles) -> "RunFolder":
        """Return a folder of the same run over other files."""
        folder = copy(self)
        folder._files = files
        return folder

    def _checked(self, rel: str) -> str:
        """Return `rel`; raise UserError where it is no plain path below the folder."""
        if len(rel) > 512 or not all(PART.fullmatch(part) for part in rel.split("/")):
            raise UserError(
                f"path {rel[:80]!r} of run '{self.name}' is not plain names joined by /, as "
                f"rounds/x.json"
            )
        if not self._files.is_inside(rel):
            raise UserError(
                f"path '{rel}' of run '{self.name}' is a link that leaves the run's folder"
            )
        return rel

    def _read(self, rel: str) -> bytes:
        with self._explained():
            return self._files.read(self._checked(rel))

    def _write(self, rel: str, data: bytes) -> None:
        with self._explained():
            self._files.write(self._checked(rel), data)

    @contextmanager
    def _parquet(self, rel: str) -> Iterator[pq.ParquetFile]:
        """Yield a Parquet file that is open for reading."""
        with (
            self._explained(),
            self._files.open(self._checked(rel)) as source,
            pq.ParquetFile(source) as file,
        ):
            yield file

    def _explained(self) -> AbstractContextManager[None]:
        """Turn errors of the disk or store itself, such as a full disk, into UserErrors."""
        return self._files.explained()
