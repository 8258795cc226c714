"""Files of the OpenAI-compatible API.

The content of a file lies in the storage's uploads, so that runs read it, and limits, retention and
deletion treat it as any upload. A file appears whole or not at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from fsspec.implementations.local import LocalFileSystem

from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import open_storage
from atgen_ray.store.tables import api_files, uploads

FOLDER = "uploads"


@dataclass(frozen=True)
class ApiFile:
    """A file; times are in seconds since 1970, `rows` are lines that are not empty. One that has
    expired is no longer found, and retention removes it.
    """

    id: str
    by: str
    upload: str
    filename: str
    purpose: str
    bytes: int
    rows: int
    created: float
    expires: float | None = None


class ApiFiles:
    """The files of one storage."""

    def __init__(self, journal: Journal, storage: str) -> None:
        self._journal = journal
        self._storage = storage

    def add(
        self,
        path: Path,
        filename: str,
        purpose: str,
        rows: int,
        by: str,
        seconds: int | None = None,
    ) -> ApiFile:
        """Keep the file at `path` for `by`, for so many `seconds`; None: until it is deleted."""
        id = f"file-{uuid4().hex}"
        upload = f"{id}.jsonl"
        size = path.stat().st_size
        fs, root = open_storage(self._storage)
        fs.makedirs(f"{root}/{FOLDER}", exist_ok=True)
        if isinstance(fs, LocalFileSystem):
            aside = Path(f"{root}/{FOLDER}/.{upload}")
            fs.put_file(str(path), str(aside))
            aside.replace(Path(f"{root}/{FOLDER}/{upload}"))
        else:  # an object store shows an object only once it is complete
            fs.put_file(str(path), f"{root}/{FOLDER}/{upload}")
        database = self._journal.database
        with database.writing() as connection:
            now = database.clock(connection)
            row = {"name": upload, "by": by, "bytes": size, "time": now}
            connection.execute(database.insert_new(uploads), row)
            expires = None if seconds is None else now + seconds
            file = ApiFile(id, by, upload, filename, purpose, size, rows, now, expires)
            connection.execute(sa.insert(api_files).values(vars(file)))
        return file

    def find(self, id: str, by: str | None, expired: bool = False) -> ApiFile | None:
        """Return a file of `by` (None: of anybody), or None; with `expired` also one that has."""
        query = sa.select(api_files).where(api_files.c.id == id)
        if by is not None:
            query = query.where(api_files.c.by == by)
        with self._journal.database.reading() as connection:
            if not expired:
                query = query.where(self._is_valid(connection))
            row = connection.execute(query).mappings().one_or_none()
        return ApiFile(**row) if row is not None else None

    def list(self, by: str | None, purpose: str | None = None) -> list[ApiFile]:
        """Return the files of `by` (None: of all), the newest first."""
        query = sa.select(api_files).order_by(api_files.c.created.desc(), api_files.c.id.desc())
        if by is not None:
            query = query.where(api_files.c.by == by)
        if purpose is not None:
            query = query.where(api_files.c.purpose == purpose)
        with self._journal.database.reading() as connection:
            query = query.where(self._is_valid(connection))
            return [ApiFile(**row) for row in connection.execute(query).mappings()]

    def _is_valid(self, connection: sa.Connection) -> sa.ColumnElement[bool]:
        now = self._journal.database.clock(connection)
        return api_files.c.expires.is_(None) | (api_files.c.expires > now)

    def locate(self, file: ApiFile) -> str:
        """Return where the content is, as a run's configuration names it."""
        if "://" in self._storage:
            return f"{self._storage.rstrip('/')}/{FOLDER}/{file.upload}"
        return f"{open_storage(self._storage)[1]}/{FOLDER}/{file.upload}"

    @contextmanager
    def open(self, file: ApiFile) -> Iterator[Iterator[bytes]]:
        """Open the lines of a file, with their ends; raises FileNotFoundError."""
        fs, root = open_storage(self._storage)
        with fs.open(f"{root}/{FOLDER}/{file.upload}", "rb") as lines:
            yield lines
