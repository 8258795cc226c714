"""Batches of questions: who asked, how far they are, and who works on them.

A worker holds a batch for `HOLD_SECONDS` and renews its hold with every part that it has answered;
where it dies, another takes the batch when the hold is over. Only the holder writes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from fsspec.implementations.local import LocalFileSystem

from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import open_storage
from atgen_ray.store.tables import batches

HOLD_SECONDS = 60.0
GOING = ("in_progress", "cancelling")


@dataclass(frozen=True)
class BatchRecord:
    """A batch; times are seconds since 1970."""

    id: str
    by: str
    token: str
    key: str | None
    asked: dict[str, Any]
    status: str
    total: int
    completed: int
    failed: int
    output: str | None
    errors: str | None
    message: str | None
    created: float
    ended: float | None
    owner: str | None
    expires: float | None


class Batches:
    """The batches of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database

    def enter(
        self, by: str, token: str, key: str | None, asked: dict[str, Any], total: int
    ) -> BatchRecord:
        """Enter a batch, or return the one that was entered with this key."""
        with self._database.writing() as connection:
            if key is not None:
                same = (batches.c.by == by) & (batches.c.key == key)
                row = connection.execute(sa.select(batches).where(same)).mappings().one_or_none()
                if row is not None:
                    return BatchRecord(**row)
            values: dict[str, Any] = dict.fromkeys(batches.c.keys())
            values |= {"id": f"batch_{uuid4().hex}", "by": by, "token": token, "key": key}
            values |= {"asked": asked, "status": "in_progress", "total": total}
            values |= {"completed": 0, "failed": 0, "created": self._database.clock(connection)}
            connection.execute(sa.insert(batches).values(values))
        return BatchRecord(**values)

    def find(self, id: str, by: str | None) -> BatchRecord | None:
        """Return a batch of `by` (None: of anybody), or None."""
        query = sa.select(batches).where(batches.c.id == id)
        if by is not None:
            query = query.where(batches.c.by == by)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return BatchRecord(**row) if row is not None else None

    def list(self, by: str | None) -> list[BatchRecord]:
        """Return the batches of `by` (None: of all), the newest first."""
        query = sa.select(batches).order_by(batches.c.created.desc(), batches.c.id.desc())
        if by is not None:
            query = query.where(batches.c.by == by)
        with self._database.reading() as connection:
            return [BatchRecord(**row) for row in connection.execute(query).mappings()]

    def cancel(self, id: str) -> None:
        """Ask that a batch end, if it goes on."""
        here = (batches.c.id == id) & (batches.c.status == "in_progress")
        with self._database.writing() as connection:
            connection.execute(sa.update(batches).where(here).values(status="cancelling"))

    def take(self, owner: str) -> BatchRecord | None:
        """Take the oldest batch that goes on and that nobody holds; None: there is none."""
        with self._database.writing() as connection:
            now = self._database.clock(connection)
            free = batches.c.owner.is_(None) | (batches.c.expires < now)
            query = sa.select(batches).where(batches.c.status.in_(GOING) & free)
            query = query.order_by(batches.c.created).limit(1)
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                return None
            held = {"owner": owner, "expires": now + HOLD_SECONDS}
            here = batches.c.id == row["id"]
            connection.execute(sa.update(batches).where(here).values(held))
        return BatchRecord(**{**row, **held})

    def advance(self, id: str, owner: str, completed: int, failed: int) -> str | None:
        """Renew the hold and note how far the batch is; return its status, None where another holds
        it.
        """
        with self._database.writing() as connection:
            now = self._database.clock(connection)
            values = {"completed": completed, "failed": failed, "expires": now + HOLD_SECONDS}
            here = (batches.c.id == id) & (batches.c.owner == owner)
            if not connection.execute(sa.update(batches).where(here).values(values)).rowcount:
                return None
            query = sa.select(batches.c.status).where(here)
            return str(connection.execute(query).scalar_one())

    def end(self, id: str, owner: str, status: str, **values: Any) -> None:
        """End a batch that `owner` holds."""
        with self._database.writing() as connection:
            ended = {"status": status, "ended": self._database.clock(connection), "owner": None}
            here = (batches.c.id == id) & (batches.c.owner == owner)
            connection.execute(sa.update(batches).where(here).values(ended | values))

    def let_go(self, id: str, owner: str) -> None:
        """Give a batch back, so that another worker takes it at once."""
        with self._database.writing() as connection:
            here = (batches.c.id == id) & (batches.c.owner == owner)
            connection.execute(sa.update(batches).where(here).values(owner=None))


class BatchParts:
    """Answers of a batch that goes on, in files of some lines each, which appear whole. They lie
    beside the uploads, and are removed when the batch ends.
    """

    def __init__(self, storage: str, id: str) -> None:
        self._fs, root = open_storage(storage)
        self._folder = f"{root}/uploads/.{id}"

    def read(self, number: int) -> list[dict[str, Any]] | None:
        """Return the answers of a part, None where it has none yet."""
        try:
            content = self._fs.cat_file(self._path(number))
        except FileNotFoundError:
            return None
        return [json.loads(line) for line in content.splitlines()]

    def write(self, number: int, answers: Sequence[dict[str, Any]]) -> None:
        """Keep the answers of a part."""
        content = "".join(f"{encode_json(answer)}\n" for answer in answers).encode()
        self._fs.makedirs(self._folder, exist_ok=True)
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(self._path(number), content)
            return
        aside = Path(f"{self._path(number)}.{uuid4().hex}")
        aside.write_bytes(content)
        aside.replace(self._path(number))

    def remove(self) -> None:
        """Remove all parts."""
        if self._fs.exists(self._folder):
            self._fs.rm(self._folder, recursive=True)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:06d}.jsonl"
