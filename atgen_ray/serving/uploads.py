"""Uploaded files: written below the service's storage under names made from their content.

A file appears whole or not at all; nothing of the sender's file name but letters, digits and the
ending is kept.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import sqlalchemy as sa
from fastapi.concurrency import run_in_threadpool
from fsspec.implementations.local import LocalFileSystem

from atgen_ray.config import LimitsConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.data.columns import list_columns
from atgen_ray.data.csv_layout import HEAD, tell_delimiter
from atgen_ray.data.json_layout import parse_values, unwrap
from atgen_ray.data.size_limits import ARRAY, check_encoding
from atgen_ray.serving.errors import ApiError
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import open_storage
from atgen_ray.store.tables import uploads

UPLOADS = "/api/v1/uploads/"
FILES = "/v1/files"  # of the OpenAI API
ENDINGS = ("csv", "tsv", "json", "jsonl", "parquet")
HEAD_BYTES = 1 << 20  # within which the first row must end
STEM = 40  # characters
ROWS = 20  # of a JSON file, whose columns are told
# How OpenAPI describes a body that is a file.
BINARY = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}


def is_upload(method: str, path: str) -> bool:
    """Return whether the route of a request reads its body in parts."""
    return path.startswith(UPLOADS) or (method == "POST" and path == FILES)


def upload_folder(storage: str) -> str:
    """Return the folder of uploads, which runs of the service may read."""
    return f"{storage.rstrip('/')}/uploads"


class UploadQuota:
    """What may be stored in uploads, in all and by one person."""

    def __init__(self, journal: Journal, storage: str, limits: LimitsConfig) -> None:
        self._journal = journal
        self._storage = storage
        self._limits = limits

    def check(self, by: str, more: int, name: str | None = None) -> None:
        """Raise ApiError 507 where `more` bytes by this person do not fit any more; a file that is
        there as `name` already takes no room.
        """
        fs, root = open_storage(self._storage)
        if name is not None and fs.exists(f"{root}/uploads/{name}"):
            return
        total = (
            sum(fs.du(f"{root}/uploads", total=False).values())
            if (fs.exists(f"{root}/uploads"))
            else 0
        )
        mine = sa.select(sa.func.coalesce(sa.func.sum(uploads.c.bytes), 0))
        with self._journal.database.reading() as connection:
            own = int(connection.execute(mine.where(uploads.c.by == by)).scalar_one())
        for used, most, whose in (
            (total, self._limits.stored_bytes, "of this service"),
            (own, self._limits.person_stored_bytes, "of one person"),
        ):
            if used + more > most:
                raise ApiError(
                    507,
                    f"the uploads {whose} have {used} of {most} bytes, which leaves no room for "
                    f"{more} more: delete some (atgen-ray delete upload NAME)",
                )

    def enter(self, name: str, by: str, size: int) -> None:
        """Enter who has uploaded a file; of the same file, who did first."""
        with self._journal.database.writing() as connection:
            now = self._journal.database.clock(connection)
            row = {"name": name, "by": by, "bytes": size, "time": now}
            connection.execute(self._journal.database.insert_new(uploads), row)


async def receive_upload(
    chunks: AsyncIterator[bytes], name: str, storage: str, limit: int, quota: UploadQuota, by: str
) -> tuple[str, list[str]]:
    """Write the chunks, sent by the person `by`, to a file of the storage; return its location and
    the columns of its first row. The same content under the same name is the same file.

    Raises:
        ApiError: 413, the file has more than `limit` bytes; 507, there is no room for it.
        UserError: the ending is unknown, or the content is of another format.
    """
    stem, _, ending = name.lower().rpartition(".")
    if ending not in ENDINGS:
        raise UserError(
            f"the file's name is {name[:80]!r}, expected one that ends in .csv, .tsv, .json, "
            f".jsonl or .parquet"
            f"{nearest(ending, ENDINGS)}"
        )
    await run_in_threadpool(quota.check, by, 1)  # before anything is read
    # The file is checked in a temporary folder: the storage never holds one that is no table.
    digest = sha256()
    size = 0
    with TemporaryDirectory(prefix="atgen-upload-") as folder:
        path = Path(folder) / f"upload.{ending}"
        with path.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise ApiError(413, f"the file has more than {limit} bytes")
                digest.update(chunk)
                file.write(chunk)
        columns = await run_in_threadpool(read_columns, path, name)
        words = "-".join(re.findall(r"[a-z0-9]+", stem))[:STEM] or "data"
        kept = f"{words}-{digest.hexdigest()[:10]}.{ending}"
        await run_in_threadpool(quota.check, by, size, kept)
        await run_in_threadpool(quota.enter, kept, by, size)
        return await run_in_threadpool(_publish, path, storage, kept), columns


def read_columns(path: Path, name: str) -> list[str]:
    """Return the columns of the file's first row; dots reach into nested ones.

    Raises:
        UserError: the file is empty, or of another format than its ending says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = path.suffix.removeprefix(".")
    try:
        if kind == "parquet":
            columns = list(pq.read_schema(path).names)
        elif kind == "json":
            columns = _read_json(path)
        else:
            # Only the beginning is read: the file may be larger than memory.
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
            check_encoding(head, "it")
            columns = _read_head(head.decode("utf-8-sig", "replace"), kind)
    except RecursionError:
        raise UserError(
            f"{name[:80]!r} is not {kind}: its first row is nested too deeply"
        ) from None
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name[:80]!r} is not {kind}: {reason[:200]}") from None
    if not columns:
        raise UserError(f"{name[:80]!r} has no columns, expected rows of {kind}")
    return columns


def _read_json(path: Path) -> list[str]:
    """Return the columns of a JSON file, whose rows may be an array, in a wrapper or on lines."""
    if path.stat().st_size > ARRAY:
        raise ValueError(f"it has more than {ARRAY >> 20} MB, expected JSON Lines")
    content = path.read_bytes()
    check_encoding(content[:4], "it")
    values = parse_values(content.removeprefix(codecs.BOM_UTF8))
    if values is None:
        raise ValueError("expected an array of objects, or an object on every line")
    rows = unwrap(values)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected objects with columns")
    return list(dict.fromkeys(name for row in rows[:ROWS] for name in list_columns(row)))


def _read_head(head: str, kind: str) -> list[str]:
    if kind in ("csv", "tsv"):
        delimiter = "\t" if kind == "tsv" else tell_delimiter(head[:HEAD])
        text = io.StringIO(head, newline="")
        return next(csv.reader(text, delimiter=delimiter, strict=True), [])
    first = next((line for line in head.splitlines() if line.strip()), "{}")
    row = json.loads(first)
    if not isinstance(row, dict):
        raise ValueError("expected an object with columns on every line")
    return list(list_columns(row))


def _publish(path: Path, storage: str, name: str) -> str:
    fs, root = open_storage(storage)
    folder = f"{root}/uploads"
    fs.makedirs(folder, exist_ok=True)
    if not isinstance(fs, LocalFileSystem):
        fs.put_file(
            str(path), f"{folder}/{name}"
        )  # an object store shows an object only once it is complete
        return f"{upload_folder(storage)}/{name}"
    aside = Path(folder) / f".{name}.{uuid4().hex}"
    fs.put_file(str(path), str(aside))
    aside.replace(Path(folder) / name)
    return f"{folder}/{name}"
