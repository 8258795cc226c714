"""Rows that are added to the pool of a run: read as the pool was, and compared with what it has.

The id of such an example is a hash of its text and of how often that text came before in the same
source: the same rows in another file or order are the same examples.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.hashing import digest
from atgen_ray.core.locations import locate
from atgen_ray.core.records import TOMBSTONE
from atgen_ray.data.duplicates import Signatures, find_duplicates, read_signatures, sign_texts
from atgen_ray.data.in_process import reading_head
from atgen_ray.data.split import open_split
from atgen_ray.models.user_template import drop_literals
from atgen_ray.store.additions import PART_SCHEMA

SHOWN_REASONS = 10
REASON = 160  # characters
_MAGIC = "*?["


@dataclass
class Offer:
    """What a source offers.

    Attributes:
        rows: PART_SCHEMA: what is usable of it, and after `drop_known` new.
        offered: rows of the source.
        unusable: those that gave no example, and why: how many by reason, the most frequent ones.
        repeated: those whose text came before in the source, where such rows are merged.
        known: those that the run has already.
        test: those whose text is in the test set.
    """

    rows: pa.Table
    offered: int
    unusable: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    known: int = 0
    test: int = 0

    @property
    def ids(self) -> list[str]:
        """Return the ids of the rows."""
        found: list[str] = self.rows["id"].to_pylist()
        return found

    def drop_known(self, parts: Iterable[pa.Table]) -> None:
        """Take out the rows that `parts` have, and count them as known."""
        left = drop(self.rows, parts)
        self.known += len(self.rows) - len(left)
        self.rows = left

    def drop_test(self, parts: Iterable[pa.Table]) -> None:
        """Take out the rows whose text is in the test set, whose `parts` these are."""
        left = drop(self.rows, parts)
        self.test += len(self.rows) - len(left)
        self.rows = left


def drop(rows: pa.Table, parts: Iterable[pa.Table]) -> pa.Table:
    """Return the rows whose values are in no column of that name of `parts`."""
    for part in parts:
        for name in part.column_names:
            known = part[name].combine_chunks()
            rows = rows.filter(pc.invert(pc.is_in(rows[name], known)))
    return rows


def read_offer(data: DataConfig, prompt: PromptConfig, source: str, fields: bool) -> Offer:
    """Read a file, folder, glob or URL in this process as data.pool was read; data.limit does not
    hold for it.

    Raises:
        UserError: it does not exist, lacks a column, or no row of it is usable.
    """
    _check_source(source)
    off = data.duplicates.model_copy(update={"action": "off"})
    kind = data.format if data.format in ("jsonl", "csv", "parquet") else "auto"
    alone = {"path": None, "subset": None, "revision": None, "pool_split": "train", "limit": None}
    here = data.model_copy(update=alone | {"pool": source, "format": kind, "duplicates": off})
    try:
        with reading_head():
            reader = open_split(here, prompt, "pool", 0, fields=fields)
            blocks = [*reader.read()]
    except UserError as error:
        raise UserError(str(error).replace("data.pool is ", "source is ", 1)) from None
    examples, gold, context = map(pa.concat_tables, zip(*blocks, strict=True))
    reasons = Counter(" ".join(letter.reason.split())[:REASON] for letter in reader.dead)
    return Offer(
        _join(examples, gold, context),
        reader.offered,
        len(reader.dead),
        dict(reasons.most_common(SHOWN_REASONS)),
        reader.offered - len(reader.dead) - reader.size,
    )


def _check_source(source: str) -> None:
    """Raise UserError for what is no file, folder, glob or URL: a data set of the hub is none."""
    path = locate(source, "source")
    try:
        there = "://" in path or any(each in path for each in _MAGIC) or Path(path).exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise UserError(
            f"source is {source[:200]!r}, expected an existing file, folder, glob or URL"
        )


def _join(examples: pa.Table, gold: pa.Table, context: pa.Table) -> pa.Table:
    """Return PART_SCHEMA, with the ids of added examples."""
    answers = dict(zip(gold["id"].to_pylist(), gold["references"].to_pylist(), strict=True))
    beside = {row["id"]: row for row in context.to_pylist()}
    seen = Counter[str]()
    rows = []
    for row in examples.to_pylist():
        more = beside.get(row["id"], {})
        id_ = digest(f"added/{row['content']}/{seen[row['content']]}", size=12)
        seen[row["content"]] += 1
        told = {name: more.get(name) for name in ("context", "fields")}
        rows.append(row | told | {"references": answers.get(row["id"], []), "id": id_})
    return pa.Table.from_pylist(rows, PART_SCHEMA)


def mark_near(
    template: str,
    threshold: float,
    pool: Iterable[pa.Table],
    rows: pa.Table,
) -> pa.Table:
    """Return `rows` (PART_SCHEMA) with `duplicate_of`: the id of the earlier example, of the pool
    or among themselves, that a row nearly repeats.

    Args:
        template: of the prompts; its own words are not compared.
        pool: its parts, with id, text, content and duplicate_of.
    """
    ids: list[str] = []
    signatures = []
    for part in pool:
        # A near-duplicate is none of an original's own; a deleted example has no text.
        part = part.filter(pc.is_null(part["duplicate_of"]))
        part = part.filter(pc.not_equal(part["content"], TOMBSTONE))
        ids += part["id"].to_pylist()
        signatures.append(_sign(template, part["text"].to_pylist()))
    before = len(ids)
    ids += rows["id"].to_pylist()
    signatures.append(_sign(template, rows["text"].to_pylist()))
    found, originals = find_duplicates(signatures, threshold)
    marks: list[str | None] = [None] * len(rows)
    for row, original in zip(found.tolist(), originals.tolist(), strict=True):
        if row >= before:
            marks[row - before] = ids[original]
    at = rows.schema.get_field_index("duplicate_of")
    return rows.set_column(at, rows.schema.field(at), pa.array(marks, pa.string()))


def _sign(template: str, texts: Collection[str]) -> Signatures:
    return read_signatures(b"".join(sign_texts([drop_literals(template, text) for text in texts])))


def count_marked(rows: pa.Table) -> int:
    """Return how many rows are near-duplicates."""
    return len(rows) - int(rows["duplicate_of"].null_count)
