"""Outputs of a run's steps without what goes: rewritten aside, named by the journal with their new
digests, and then moved to their names, as the steps themselves were.

A pool keeps a row for an example that goes, which has neither text nor content hash: its id keeps
its place. All other tables lose the row.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.records import TOMBSTONE
from atgen_ray.runs.deletion.redaction import Redaction
from atgen_ray.store.additions import INBOX
from atgen_ray.store.events import Event
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import FILES, FOLDERS, PLACE
from atgen_ray.store.stored_files import FileRecord

POOL = "pool.parquet"
# Tables of examples by id whose rows have texts. A selection has ids and numbers alone.
TABLES = (
    "test.parquet",
    "target.parquet",
    "gold.parquet",
    "context.parquet",
    "features.parquet",
    "frame.parquet",
)
LABELS = ("annotations.jsonl", "labeled.jsonl")
ANSWERS = ("predictions.jsonl", "few_shot.jsonl")
VECTORS = "embeddings/"


def is_rewritten(rel: str) -> bool:
    """Return whether a file may hold rows of an example or names of people."""
    name = rel.rpartition("/")[2]
    return name in (POOL, *TABLES, *LABELS, *ANSWERS) or (
        rel.startswith((VECTORS, f"{INBOX}/")) and name.endswith(".parquet")
    )


def count_changes(folder: RunFolder, rel: str, redaction: Redaction) -> int:
    """Return how many rows of the file `rel` would go or change."""
    if rel.endswith(".jsonl"):
        rows = folder.read_jsonl(rel)
        return sum(_change_row(rel, row, redaction) != row for row in rows)
    if redaction.rename is not None or not redaction.whole:
        return 0
    key = "content" if rel.startswith(VECTORS) else "id"
    columns = [key] + (["content"] if rel.endswith(POOL) else [])
    return sum(
        int(pc.sum(_find_rows(rel, part, redaction)).as_py() or 0)
        for part in folder.scan_table(rel, columns)
    )


def rewrite(folder: RunFolder, rel: str, redaction: Redaction, out: RunFolder) -> None:
    """Write the file `rel` of `folder` to `out` without what goes."""
    if rel.endswith(".jsonl"):
        out.write_jsonl(rel, _keep_rows(folder, rel, redaction))
    else:
        with out.table_writer(rel, folder.read_schema(rel)) as add:
            for part in folder.scan_table(rel):
                add(_change_part(rel, part, redaction))


def renew_event(event: Event, place: str, written: dict[str, FileRecord]) -> dict[str, Any]:
    """Return the payload of a step whose files were `written` anew at `place`."""
    payload = dict(event.payload)
    files = dict(payload[FILES])
    for rel, record in written.items():
        if rel in files:
            known = files[rel]["digest"] is not None
            files[rel] = {"size": record.size, "digest": record.digest if known else None}
    return payload | {PLACE: place, FILES: files, FOLDERS: list(payload.get(FOLDERS, ()))}


def _keep_rows(folder: RunFolder, rel: str, redaction: Redaction) -> Iterator[dict[str, Any]]:
    for row in folder.read_jsonl(rel):
        changed = _change_row(rel, row, redaction)
        if changed is not None:
            yield changed


def _change_row(rel: str, row: dict[str, Any], redaction: Redaction) -> dict[str, Any] | None:
    """Return a row of JSON Lines as it may stay; None if it goes."""
    if redaction.rename is not None:
        changed: dict[str, Any] = redaction.rename_json(row)
        return changed
    name = rel.rpartition("/")[2]
    if name in LABELS:
        return None if redaction.covers_label(row) else row
    # The label of an example of the dev split, or of the audit, is the reference of its prediction.
    labeled = row.get("split") in ("dev", "audit")
    if row.get("id") in redaction.ids and (redaction.whole or labeled):
        return None
    return row


def _find_rows(rel: str, part: pa.Table, redaction: Redaction) -> pa.ChunkedArray:
    """Return which rows of a part of a table go, or become a tombstone."""
    if rel.startswith(VECTORS):
        return pc.is_in(part["content"], pa.array(sorted(redaction.contents), pa.string()))
    found = pc.is_in(part["id"], pa.array(sorted(redaction.ids), pa.string()))
    if rel.endswith(POOL):
        return pc.and_(found, pc.not_equal(part["content"], TOMBSTONE))
    return found


def _change_part(rel: str, part: pa.Table, redaction: Redaction) -> pa.Table:
    found = _find_rows(rel, part, redaction)
    if not rel.endswith(POOL):
        return part.filter(pc.invert(found))
    for column, value in (("text", ""), ("content", TOMBSTONE)):
        at = part.schema.get_field_index(column)
        part = part.set_column(
            at, part.schema.field(at), pc.if_else(found, pa.scalar(value), part[column])
        )
    return part
