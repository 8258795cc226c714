"""Folder of a run, on local disk or in an object store. Every name is checked, and every write
appears whole or not at all.

- Local writes are staged under `.staging` of the same folder, flushed with fsync and renamed into
  place.
- In an object store (any fsspec URL) a single object appears whole by itself; a folder counts only
  once its record under `.published` says that it is complete.
- A kill at any moment leaves the old content, the new content or nothing; `RunFolder.sweep` removes
  what is left behind.
- Once a controller has fenced the folder, one without the lease changes nothing in it
  (`RunFolder.fenced`).

For example `RunFolder("./atgen-runs", "demo").write_json("rounds/001/metrics.json", metrics)`.
"""

import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from atgen_ray.core.errors import LeaseLostError, UserError
from atgen_ray.core.names import check_run_name
from atgen_ray.core.stored import (
    Stored,
    at_path,
    digest_record,
    explain_trouble,
    find_stored,
    open_url,
)
from atgen_ray.core.strict_json import encode_json

STAGING = ".staging"
PUBLISHED = ".published"
TRASH = ".trash"  # what the doctor has put away
GROUP_ROWS = 1 << 14  # rows of a row group of a Parquet file
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,127}")
# What a rename says where a folder, or a file in place of a folder, has the name already.
TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
MOST_SWAPS = 5  # tries to replace an object that others replace at the same moment


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of a file that was written."""

    size: int
    digest: str


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
        self.fs, root = open_storage(storage)
        self.root = f"{root}/runs/{name}"
        self._shown = self.root  # what messages name: the run's folder, also of a part of it
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self._area = ""  # of the staging folder that the writes of a fenced folder go through
        self._check: Callable[[], object] | None = None  # of a fenced folder: is the lease ours?
        self._written: dict[str, FileRecord] | None = None  # what was written, if that is kept
        self._folders: list[str] = []  # the same of `publish`

    def __getstate__(self) -> dict[str, Any]:
        # Workers get the folder too; the lease stays with the controller.
        return self.__dict__ | {"_check": None}

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
        fenced = copy(self)
        fenced._area = area
        fenced._check = check
        if not self.is_local:
            check()
            self.sweep()
            return fenced
        with self._explained():
            staging = Path(self.root, STAGING)
            Path(staging, area).mkdir(parents=True)
            # In this order: of two controllers that do this at once, the one without the lease
            # either sees the other's folder, and then fails the check, or is seen by the other.
            others = [path for path in staging.iterdir() if path.name != area]
            check()
            for other in others:
                retired = fenced._staging_path()
                with suppress(FileNotFoundError):
                    fenced._rename(other, retired)
                    _delete(retired)
        return fenced

    def below(self, *parts: str) -> "RunFolder":
        """Return the folder `parts` below this one, to which nobody else writes; it keeps the size
        and digest of each file that is written through it (`written`).
        """
        inner = copy(self)
        inner.root = "/".join((self.root, *parts))
        inner._area = ""
        inner._check = None
        inner._written = {}
        inner._folders = []
        return inner

    @property
    def written(self) -> Mapping[str, FileRecord]:
        """Return the files that were written through this folder, if it comes from `below`."""
        return self._written or {}

    @property
    def folders(self) -> Sequence[str]:
        """Return the folders that were published through this folder, if it comes from `below`."""
        return self._folders

    def __repr__(self) -> str:
        return f"RunFolder({self.name!r})"

    def path(self, rel: str) -> str:
        """Return the absolute path on local disk, or the full URL, for Ray Data and pyarrow."""
        return self._target(rel) if self.is_local else self.fs.unstrip_protocol(self._target(rel))

    def exists(self, rel: str) -> bool:
        """Return whether a file, or a folder made by `publish`, is there and whole.

        For any other folder the answer means nothing in an object store.
        """
        target = self._target(rel)
        if self.is_local:
            return Path(target).exists()
        with self._explained():
            try:
                if self.fs.info(target)["type"] == "file":
                    return True
            except FileNotFoundError:
                return False
            return self._record(rel) is not None

    def refresh(self, rel: str) -> None:
        """Have this machine look again whether `rel` is there: a client of NFS remembers for a
        while that a name was free, and forgets it as the folder is read.
        """
        if self.is_local:
            with suppress(OSError):
                next(Path(self._target(rel)).parent.iterdir(), None)

    def write_table(self, rel: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        with self.table_writer(rel, table.schema) as add:
            add(table)

    @contextmanager
    def table_writer(self, rel: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
        """Yield a function that adds rows of `schema` to a Parquet file, which appears whole at the
        end of the block.

        At most about `GROUP_ROWS` rows and one more table are held in memory.
        """
        waiting = [schema.empty_table()]
        with (
            self._whole_file(rel) as path,
            path.open("wb") as sink,  # a file of Python, whose errors tell that a disk is full
            pq.ParquetWriter(sink, schema, compression="zstd") as file,
        ):

            def add(table: pa.Table, least: int = GROUP_ROWS) -> None:
                waiting.append(table)
                if sum(map(len, waiting)) >= least:
                    file.write_table(pa.concat_tables(waiting), row_group_size=GROUP_ROWS)
                    waiting.clear()

            yield add
            if waiting:
                add(waiting.pop(), 0)

    def read_table(self, rel: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a Parquet file; `columns` restricts what is read."""
        with self._parquet(rel) as file:
            return file.read(columns=None if columns is None else [*columns])

    def scan_table(self, rel: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield a Parquet file in pieces of at most `GROUP_ROWS` rows, in order."""
        with self._parquet(rel) as file:
            names = None if columns is None else [*columns]
            for batch in file.iter_batches(GROUP_ROWS, columns=names):
                yield pa.Table.from_batches([batch])

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
            at = file.schema_arrow.names.index("id")  # the columns before it are not nested
            groups = []
            for group in range(file.num_row_groups):
                ids = file.metadata.row_group(group).column(at).statistics
                if ids is None or (ids.min <= last and ids.max >= first):
                    groups.append(group)
            return file.read_row_groups(groups, None if columns is None else [*columns])

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
        target = self._target(rel)
        if self.is_local:
            with self._explained(), self._staged(target) as staged:
                staged.mkdir()
                yield staged
            self._folders.append(rel)
            return
        with TemporaryDirectory(prefix="atgen-publish-") as folder:
            yield Path(folder)
            with self._explained():
                self._upload(Path(folder), rel, target)
        self._folders.append(rel)

    def take_in(self, aside: "RunFolder", rel: str) -> None:
        """Move the file, or the folder made by `publish`, at `rel` of `aside` to the same name
        here, in place of what was there; do nothing where it is not in `aside` any more.

        Two controllers may do this at once with the same `aside`.
        """
        source = aside._target(rel)
        target = self._target(rel)
        with self._explained():
            if self.is_local:
                self._rename_in(source, target)
            elif (record := aside._record(rel)) is not None:
                if self._record(rel) not in (None, record):
                    self.remove(rel)
                files = record["files"]
                self._copy(
                    [f"{source}/{file}" for file in files], [f"{target}/{file}" for file in files]
                )
                self.fs.pipe_file(self._record_path(rel), encode_json(record).encode())
            else:
                self._copy([source], [target])

    def move(self, rel: str, to: str) -> None:
        """Rename a folder that `publish` did not make, unless `to` is there already or another
        controller has moved it; in an object store its files are copied.
        """
        source = self._target(rel)
        target = self._target(to)
        with self._explained(), suppress(FileNotFoundError):
            if self.is_local:
                if not Path(target).exists():
                    self._rename(Path(source), Path(target))
                return
            files = self.fs.find(source)
            self._copy(files, [f"{target}{file[len(source) :]}" for file in files])
            self._remove_objects(source)

    def discard(self, rel: str, trash: str) -> bool:
        """Move a file, whose path `list_sizes` gave, below the folder `trash` of the run's folder,
        and return whether it was there.
        """
        source = f"{self.root}/{rel}"
        target = f"{self.root}/{trash}/{rel}"
        with self._explained():
            try:
                if not self.is_local:
                    self.fs.copy(source, target)
                    self.fs.rm_file(source)
                    return True
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                self._rename(Path(source), Path(target))
            except FileNotFoundError:
                return False
            with suppress(OSError):  # a folder that is empty now; it would look like an output
                for parent in Path(rel).parents:
                    Path(self.root, parent).rmdir()
        return True

    def keep(self, rel: str, trash: str) -> bool:
        """Copy a file below the folder `trash` of the run's folder, and return whether it is
        there.
        """
        target = f"{self.root}/{trash}/{rel}"
        with self._explained():
            if not self.exists(rel):
                return False
            if self.is_local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            self.fs.copy(self._target(rel), target)
        return True

    def list_sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file of the folder by its path, those whose names
        begin with a point included.
        """
        with self._explained():
            if self.is_local:
                return dict(_scan(self.root))
            found = self.fs.find(self.root, detail=True)
        start = len(self.root) + 1
        return {
            path[start:]: int(info["size"])
            for path, info in found.items()
            if not path.endswith("/")  # an empty object that stands for a folder
        }

    def scan_bytes(self, rel: str, piece: int = 1 << 20) -> Iterator[bytes]:
        """Yield the content of a file, whose path `list_sizes` gave, in pieces."""
        with self._explained(), self.fs.open(f"{self.root}/{rel}", "rb") as file:
            while data := file.read(piece):
                yield data

    def erase(self, rel: str) -> None:
        """Remove a file, whose path `list_sizes` gave, and the folders that are empty then."""
        target = f"{self.root}/{rel}"
        with self._explained(), suppress(FileNotFoundError):
            if not self.is_local:
                self.fs.rm_file(target)
                return
            self._retire(target)
            with suppress(OSError):
                for parent in Path(rel).parents[:-1]:
                    Path(self.root, parent).rmdir()

    def digest(self, rel: str) -> str:
        """Return the SHA-256 of a file, which is read as a whole."""
        with self._explained(), self.fs.open(self._target(rel), "rb") as file:
            return _digest(file)

    def refer(self, rel: str) -> Stored:
        """Return a reference to the present version of `rel`, which other nodes can follow.

        Raises:
            FileNotFoundError: it is not there, or a folder in an object store is being replaced.
        """
        target = self._target(rel)
        if self.is_local:
            if not Path(target).exists():
                raise FileNotFoundError(target)
            return at_path(Path(target))
        with self._explained():
            if (record := self._record(rel)) is not None:
                return Stored(
                    self.fs,
                    target,
                    digest_record(record),
                    tuple(record["files"]),
                    self._record_path(rel),
                )
            if self.fs.info(target)["type"] != "file":
                raise FileNotFoundError(target)
            return find_stored(self.fs, target)

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
        target = self._target(rel) if rel else self.root
        with self._explained():
            try:
                paths = self.fs.ls(target, detail=False)
            except FileNotFoundError:
                return []
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return sorted(f"{rel}/{name}" if rel else name for name in names if PART.fullmatch(name))

    def remove(self, rel: str) -> None:
        """Remove a file or folder whole; do nothing when it is not there."""
        target = self._target(rel)
        with self._explained():
            if not self.is_local:
                # Records go first: without its record a folder does not count.
                self._remove_objects(
                    self._record_path(rel), f"{self.root}/{PUBLISHED}/{rel}", target
                )
            elif Path(target).exists():
                self._retire(target)
                _sync(Path(target).parent)

    def remove_all(self) -> None:
        """Remove the whole folder of the run; do nothing when it is not there."""
        with self._explained():
            if self.fs.exists(self.root):
                self.fs.rm(self.root, recursive=True)

    def sweep(self) -> None:
        """Remove what killed writes left behind.

        Only the holder of the run's lease may call this: it would destroy the writes of others that
        are under way.
        """
        if self.is_local:
            _delete(Path(self.root) / STAGING)
            return
        records = f"{self.root}/{PUBLISHED}"
        for path in self.fs.find(records):
            rel = path[path.index(records) + len(records) + 1 :].removesuffix(".json")
            if self._record(rel) is None:
                self.remove(rel)

    def _target(self, rel: str) -> str:
        """Return the absolute path of `rel`; raise UserError where it is no plain path below."""
        if len(rel) > 512 or not all(PART.fullmatch(part) for part in rel.split("/")):
            raise UserError(
                f"path {rel[:80]!r} of run '{self.name}' is not plain names joined by /, as "
                f"rounds/x.json"
            )
        target = f"{self.root}/{rel}"
        if self.is_local and not Path(os.path.realpath(target)).is_relative_to(self.root):
            raise UserError(
                f"path '{rel}' of run '{self.name}' is a link that leaves the run's folder"
            )
        return target

    def _read(self, rel: str) -> bytes:
        with self._explained():
            return self.fs.cat_file(self._target(rel))

    def _write(self, rel: str, data: bytes) -> None:
        target = self._target(rel)
        with self._explained():
            if self.is_local:
                with self._staged(target) as staged:
                    staged.write_bytes(data)
                return
            self._note(rel, io.BytesIO(data), len(data))
            if self._check is None or "s3" not in self.fs.protocol:
                if self._check is not None:
                    self._check()
                self.fs.pipe_file(target, data)
                return
            for left in reversed(range(MOST_SWAPS)):
                if self._swap(target, data, self._check, left):
                    return

    def _swap(self, target: str, data: bytes, check: Callable[[], object], left: int) -> bool:
        """Replace an object by `data` if nobody else does so meanwhile, and return whether it is
        replaced. With no tries `left`, raise what the store said.
        """
        # The object is looked at before the lease: if another controller has written since the
        # lease was checked, the object is not the one seen here.
        try:
            condition = {"IfMatch": self.fs.info(target)["ETag"]}
        except FileNotFoundError:
            condition = {"IfNoneMatch": "*"}
        check()
        try:
            self.fs.pipe_file(target, data, **condition)
        except OSError as error:
            if error.errno not in (None, errno.EINVAL, errno.ENOENT):
                raise
            # The store may have done it, and its answer was lost.
            with suppress(FileNotFoundError):
                if self.fs.cat_file(target) == data:
                    return True
            if not left:
                raise
            return False
        return True

    @contextmanager
    def _whole_file(self, rel: str) -> Iterator[Path]:
        """Yield a path on this disk; on a clean exit what is written there appears at `rel`."""
        target = self._target(rel)
        with self._explained():
            if self.is_local:
                with self._staged(target) as staged:
                    yield staged
                return
            with TemporaryDirectory(prefix="atgen-write-") as folder:
                table = Path(folder, "table")
                yield table
                self._note_file(rel, table)
                self.fs.put_file(str(table), target)

    @contextmanager
    def _parquet(self, rel: str) -> Iterator[pq.ParquetFile]:
        """Yield a Parquet file that is open for reading."""
        target = self._target(rel)
        with (
            self._explained(),
            pa.OSFile(target) if self.is_local else self.fs.open(target, "rb") as source,
            pq.ParquetFile(source) as file,
        ):
            yield file

    def _explained(self) -> AbstractContextManager[None]:
        """Turn errors of the disk or store itself, such as a full disk, into UserErrors."""
        return explain_trouble(self.fs, self._shown)

    @contextmanager
    def _staged(self, target: str) -> Iterator[Path]:
        """Yield a path on the same disk; on a clean exit flush it and rename it to `target`."""
        staged = self._staging_path()
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        try:
            yield staged
            self._note_tree(target, staged)
            for path in [staged, *staged.rglob("*")]:
                _sync(path)
            if Path(target).is_dir() or (staged.is_dir() and Path(target).exists()):
                self._retire(target)  # rename replaces a file by a file only
            self._rename(staged, Path(target))
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
            raise LeaseLostError(f"the storage of run '{self.name}' is another controller's now")

    def _retire(self, target: str) -> None:
        """Move a whole folder or file to the staging folder in one step, then delete it."""
        retired = self._staging_path()
        try:
            self._rename(Path(target), retired)
        except FileNotFoundError:
            self._require_staging()
            raise
        _delete(retired)

    def _rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder. NFS may say that it is not there although the rename was done,
        where the server's answer was lost.
        """
        known = source.lstat()
        try:
            source.rename(target)
        except FileNotFoundError:
            if not (target.exists() and os.path.samestat(known, target.lstat())):
                raise

    def _rename_in(self, source: str, target: str) -> None:
        """Rename what a step has made, unless another controller has."""
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                Path(source).rename(target)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
                # No step that the journal names: an older version, or the time before an older
                # journal was restored, has left it.
                self._retire(target)
                Path(source).rename(target)
        except FileNotFoundError:
            self._require_staging()
            return
        self._sync_parents(target)

    def _sync_parents(self, target: str) -> None:
        """Flush the folders above `target`, which may be new too, up to the storage root."""
        parents = [*Path(target).parents]
        for folder in parents[: parents.index(Path(self.root).parents[1]) + 1]:
            _sync(folder)

    def _note_tree(self, target: str, staged: Path) -> None:
        """Keep size and digest of what was written for `target`, a file or a folder."""
        rel = target[len(self.root) + 1 :]
        if staged.is_file():
            self._note_file(rel, staged)
        elif self._written is not None:
            for path in sorted(staged.rglob("*")):
                if path.is_file():
                    self._note_file(f"{rel}/{path.relative_to(staged).as_posix()}", path)

    def _note_file(self, rel: str, path: Path) -> None:
        if self._written is not None:
            with path.open("rb") as file:
                self._note(rel, file, path.stat().st_size)

    def _note(self, rel: str, content: IO[bytes], size: int) -> None:
        if self._written is not None:
            self._written[rel] = FileRecord(size, _digest(content))

    def _copy(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        """Copy objects within the store, unless another controller has moved them."""
        with suppress(FileNotFoundError):
            self.fs.copy([*sources], [*targets])

    def _record_path(self, rel: str) -> str:
        return f"{self.root}/{PUBLISHED}/{rel}.json"

    def _record(self, rel: str) -> dict[str, Any] | None:
        """Return the record of the folder published at `rel` of an object store, with its version
        and its files; None unless it is complete.
        """
        try:
            record: dict[str, Any] = json.loads(self.fs.cat_file(self._record_path(rel)))
        except FileNotFoundError:
            return None
        return record if record["complete"] else None

    def _upload(self, folder: Path, rel: str, target: str) -> None:
        """Publish `folder` at `rel` of an object store in place of what was there."""
        files = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        for file in files:
            self._note_file(f"{rel}/{file}", folder / file)
        record = {"version": uuid4().hex, "files": files, "complete": False}
        # The incomplete record hides the old content at once, and lets `sweep` find the new files
        # if this process dies before the second record.
        self.fs.pipe_file(self._record_path(rel), encode_json(record).encode())
        self._remove_objects(target)
        self.fs.put([str(folder / file) for file in files], [f"{target}/{file}" for file in files])
        self.fs.pipe_file(self._record_path(rel), encode_json(record | {"complete": True}).encode())

    def _remove_objects(self, *paths: str) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self.fs.rm(path, recursive=True)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a power cut cannot lose what is then renamed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(content: IO[bytes]) -> str:
    """Return the SHA-256 of what a file has from its present position on."""
    found = hashlib.sha256()
    while piece := content.read(1 << 20):
        found.update(piece)
    return found.hexdigest()


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
