"""Files of a run in an object store, behind any URL of fsspec.

- A single object appears whole by itself. A folder counts only once its record, a JSON object below
  `.published`, says that it is complete: its files and a version.
- A controller that is fenced replaces an object of S3 only where it is still what it was before the
  lease was checked; elsewhere it checks the lease before each write.
"""

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from uuid import uuid4

from atgen_ray.core.stored import Stored, digest_record, find_stored
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.stored_files import StoredFiles

PUBLISHED = ".published"
MOST_SWAPS = 5  # tries to replace an object that others replace at the same moment


class ObjectFiles(StoredFiles):
    """The objects whose names begin with `root` and a slash."""

    def fenced(self, area: str, check: Callable[[], object]) -> Self:
        fenced = copy(self)
        fenced._check = check
        check()
        self.sweep()
        return fenced

    def is_inside(self, rel: str) -> bool:
        return True

    def exists(self, rel: str) -> bool:
        try:
            if self.fs.info(self.locate(rel))["type"] == "file":
                return True
        except FileNotFoundError:
            return False
        return self._record(rel) is not None

    def open(self, rel: str) -> Any:
        return self.fs.open(self.locate(rel), "rb")

    def list_sizes(self) -> dict[str, int]:
        found = self.fs.find(self.root, detail=True)
        start = len(self.root) + 1
        return {
            path[start:]: int(info["size"])
            for path, info in found.items()
            if not path.endswith("/")  # an empty object that stands for a folder
        }

    def refer(self, rel: str) -> Stored:
        target = self.locate(rel)
        if (record := self._record(rel)) is not None:
            files = tuple(record["files"])
            return Stored(self.fs, target, digest_record(record), files, self._record_path(rel))
        if self.fs.info(target)["type"] != "file":
            raise FileNotFoundError(target)
        return find_stored(self.fs, target)

    def write(self, rel: str, data: bytes) -> None:
        target = self.locate(rel)
        self._note_bytes(rel, data)
        if self._check is None or "s3" not in self.fs.protocol:
            if self._check is not None:
                self._check()
            self.fs.pipe_file(target, data)
            return
        for left in reversed(range(MOST_SWAPS)):
            if self._swap(target, data, self._check, left):
                return

    @contextmanager
    def whole_file(self, rel: str) -> Iterator[Path]:
        with self.explained(), TemporaryDirectory(prefix="atgen-write-") as folder:
            path = Path(folder, "table")
            yield path
            self._note_file(rel, path)
            self.fs.put_file(str(path), self.locate(rel))

    @contextmanager
    def publish(self, rel: str) -> Iterator[Path]:
        with TemporaryDirectory(prefix="atgen-publish-") as folder:
            yield Path(folder)
            with self.explained():
                self._upload(Path(folder), rel)
        self._note_folder(rel)

    def take_in(self, made: str, rel: str) -> None:
        source = f"{made}/{rel}"
        target = self.locate(rel)
        record = self._read_record(f"{made}/{PUBLISHED}/{rel}.json")
        if record is None:
            self._copy([source], [target])
            return
        if self._record(rel) not in (None, record):
            self.remove(rel)
        files = record["files"]
        self._copy([f"{source}/{file}" for file in files], [f"{target}/{file}" for file in files])
        self.fs.pipe_file(self._record_path(rel), encode_json(record).encode())

    def move(self, rel: str, to: str) -> None:
        source = self.locate(rel)
        target = self.locate(to)
        files = self.fs.find(source)
        self._copy(files, [f"{target}{file[len(source) :]}" for file in files])
        self._remove_objects(source)

    def discard(self, rel: str, trash: str) -> None:
        self.keep(rel, trash)
        self.fs.rm_file(self.locate(rel))

    def keep(self, rel: str, trash: str) -> None:
        self.fs.copy(self.locate(rel), self.locate(f"{trash}/{rel}"))

    def erase(self, rel: str) -> None:
        self.fs.rm_file(self.locate(rel))

    def remove(self, rel: str) -> None:
        # Records go first: without its record a folder does not count.
        self._remove_objects(
            self._record_path(rel), self.locate(f"{PUBLISHED}/{rel}"), self.locate(rel)
        )

    def sweep(self) -> None:
        records = self.locate(PUBLISHED)
        for path in self.fs.find(records):
            rel = path[path.index(records) + len(records) + 1 :].removesuffix(".json")
            if self._record(rel) is None:
                self.remove(rel)

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

    def _copy(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        """Copy objects within the store, unless another controller has moved them."""
        with suppress(FileNotFoundError):
            self.fs.copy([*sources], [*targets])

    def _upload(self, folder: Path, rel: str) -> None:
        """Publish `folder` at `rel` in place of what was there."""
        target = self.locate(rel)
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

    def _record_path(self, rel: str) -> str:
        return self.locate(f"{PUBLISHED}/{rel}.json")

    def _record(self, rel: str) -> dict[str, Any] | None:
        """Return the record of the folder published at `rel`; None unless it is complete."""
        return self._read_record(self._record_path(rel))

    def _read_record(self, path: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self.fs.cat_file(path))
        except FileNotFoundError:
            return None
        return record if record["complete"] else None
