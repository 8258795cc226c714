"""Reading of a split: every usable row as an example with an id, its answers in a separate table,
and the unusable rows.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.arrays import Integers
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.hashing import digest
from atgen_ray.core.records import CONTEXT_SCHEMA, GOLD_SCHEMA, POOL_SCHEMA, DeadLetter, Progress
from atgen_ray.data.column_guess import recognise_export
from atgen_ray.data.filled_rows import FilledRows, Mask, fill_source, mark_duplicates
from atgen_ray.data.rows import RowPlan
from atgen_ray.models.user_template import check_template

SplitName = Literal["pool", "test", "target", "labeled"]


@dataclass(frozen=True)
class Split:
    """A split as the steps of a run see it. Only `gold` has answers."""

    examples: pa.Table  # POOL_SCHEMA, in the order of the source
    gold: pa.Table  # GOLD_SCHEMA: a row for each example that has references
    dead: list[DeadLetter]  # rows that gave no example


@dataclass(frozen=True)
class SplitReader:
    """A split whose rows are known and filled, but not held: `read` makes its tables block by
    block.

    Attributes:
        size: the number of examples.
        dead: rows that gave no example.
    """

    size: int
    dead: list[DeadLetter]
    _split: SplitName
    _rows: FilledRows
    _kept: Mask  # which rows of the source are examples
    _merged: dict[int, list[str]]  # answers of the rows whose text comes again later
    _duplicates: tuple[Integers, Integers]  # rows that are near-duplicates, and their originals

    @property
    def offered(self) -> int:
        """Return the rows of the source, usable or not."""
        return len(self._kept)

    def read(self) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
        """Yield the examples (POOL_SCHEMA), the answers (GOLD_SCHEMA), and what stands beside the
        inputs (CONTEXT_SCHEMA), of each block.
        """
        duplicates, originals = self._duplicates
        original_ids: dict[int, str | None] = dict.fromkeys(originals.tolist())
        begin = 0
        for block in self._rows:
            kept = self._kept[begin : begin + len(block)]
            rows = np.flatnonzero(kept) + begin
            begin += len(block)
            # `filter` works chunk by chunk, whatever the length of the texts; `take` does not.
            block = block.select(["text", "content", "references", "context", "fields"]).filter(
                pa.array(kept)
            )
            ids = [
                _hash_id(self._split, content, row)
                for content, row in zip(block["content"].to_pylist(), rows.tolist(), strict=True)
            ]
            references = block["references"]
            if self._merged:
                known = zip(rows.tolist(), references.to_pylist(), strict=True)
                merged = [self._merged.get(row, own) for row, own in known]
                references = pa.array(merged, references.type)
            found = (row for row in rows.tolist() if row in original_ids) if original_ids else ()
            original_ids |= {row: ids[np.searchsorted(rows, row)] for row in found}
            marked = (
                slice(*np.searchsorted(duplicates, rows[[0, -1]] + [0, 1])) if ids else slice(0)
            )
            duplicate_of: list[str | None] = [None] * len(ids)
            pairs = zip(duplicates[marked], originals[marked].tolist(), strict=True)
            for row, original in pairs:
                duplicate_of[np.searchsorted(rows, row)] = original_ids[original]
            examples = pa.table(
                [
                    pa.array(ids, pa.string()),
                    pa.array(rows),
                    block["text"],
                    block["content"],
                    pa.array(duplicate_of, pa.string()),
                ],
                schema=POOL_SCHEMA,
            )
            gold = pa.table([examples["id"], references], schema=GOLD_SCHEMA)
            context = pa.table(
                [examples["id"], block["context"], block["fields"]], schema=CONTEXT_SCHEMA
            )
            told = pc.or_(pc.is_valid(context["context"]), pc.is_valid(context["fields"]))
            yield (
                examples,
                gold.filter(pc.greater(pc.list_value_length(gold["references"]), 0)),
                context.filter(told),
            )


def build_split(
    data: DataConfig,
    prompt: PromptConfig,
    split: SplitName,
    seed: int,
    progress: Progress | None = None,
) -> Split:
    """Read data.pool, data.test, data.target or data.labeled whole; see `open_split`.

    Example:
        split = build_split(config.data, config.prompt, "pool", seed=config.seed)
        texts = split.examples["text"].to_pylist()
    """
    reader = open_split(data, prompt, split, seed, progress)
    examples, gold, _ = zip(*reader.read(), strict=True)
    return Split(pa.concat_tables(examples), pa.concat_tables(gold), reader.dead)


def open_split(
    data: DataConfig,
    prompt: PromptConfig,
    split: SplitName,
    seed: int,
    progress: Progress | None = None,
    fields: bool = False,
) -> SplitReader:
    """Read data.pool, data.test, data.target or data.labeled, through Ray Data or inside
    `reading_in_process` in this process.

    Ids are hashes of the split, the text and the source row; `limit` keeps a subset that depends on
    `seed` and the source rows alone. Near-duplicates are marked in the pool only, among the rows
    kept. A row of the test set and of data.labeled needs a reference, others do not; those of the
    target have none.
    `progress` is called with the rows read so far, as both numbers: a text file does not tell how
    many it holds. With `fields` the short columns of the rows are kept too, without the answers.

    Raises:
        UserError: the location does not exist, a configured column or variable exists in no row, or
            no row is usable.
    """
    from atgen_ray.data.sources import open_source, parse_split

    data = data.narrow(f"data.{split}")
    location = data.locations[f"data.{split}"]
    if location is None:
        named = {"test": "the test set", "labeled": "rows with answers"}
        what = named.get(split, f"the {split}")
        raise UserError(f"data.{split} is null, expected the location of {what}")
    named_splits = {
        "pool": data.pool_split,
        "test": data.test_split,
        "target": data.target_split,
        "labeled": "train",  # of one file, which is all of it
    }
    asked = named_splits[split]
    plan = replace(_plan_rows(data, prompt, split), fields=fields)
    name, part = parse_split(asked, f"data.{split}_split")
    source = open_source(data, f"data.{split}", location, name)
    rows = fill_source(source, plan, f"data.{split} is '{location}'", progress)
    survey = _Survey()
    for block in rows:
        survey.add(block)
    _check_rows(survey, plan, data, split, location)

    inside = range(*part.indices(survey.rows))
    if not inside:
        raise UserError(
            f"data.{split}_split is '{asked}', but '{location}' has {survey.rows} rows, none of "
            f"them there"
        )
    dead = [
        DeadLetter(f"row-{row}" if split == "pool" else f"{split}-row-{row}", "pool", reason)
        for row, reason in survey.errors
        if row in inside
    ]
    kept = np.zeros(survey.rows, dtype=bool)
    kept[inside.start : inside.stop] = True
    kept[[row for row, _ in survey.errors]] = False
    if not kept.any():
        raise UserError(
            f"data.{split} is '{location}', of which no row that is asked for is usable; the "
            f"first: {dead[0].reason}"
        )
    # A prompt that comes twice in the target counts twice, as in the traffic it stands for.
    merges = data.merge_repeats and split != "target"
    merged = _merge_repeats(rows, kept) if merges else {}
    limit = {"pool": data.limit, "test": data.test_limit}.get(split)
    _draw(kept, limit, f"{seed}/{split}")
    duplicates = (np.empty(0, np.int64), np.empty(0, np.int64))
    if plan.signed:
        duplicates = mark_duplicates(rows, kept, data.duplicates.threshold, progress)
    return SplitReader(int(kept.sum()), dead, split, rows, kept, merged, duplicates)


def overlap(pool: pa.Table, test: pa.Table) -> list[str]:
    """Return the ids of the pool's examples whose content is in the test set too: training on them
    would leak it.
    """
    shared = pc.is_in(pool["content"], value_set=test["content"].combine_chunks())
    return pool["id"].filter(shared).to_pylist()


def _plan_rows(data: DataConfig, prompt: PromptConfig, split: SplitName) -> RowPlan:
    """Return what to take from every row of the split."""
    references = None if split == "target" else data.references
    if split == "test" and data.test_references is not None:
        references = data.test_references
    if split == "test" and not references:
        raise UserError(
            "data.test is given without data.test_references (or data.references), the answers' "
            "column"
        )
    if split == "labeled" and data.labeled_references is not None:
        references = data.labeled_references
    check_template(prompt.template)
    if data.reference_template is not None:
        check_template(data.reference_template, "data.reference_template")
    paths = (references,) if isinstance(references, str) else tuple(references or ())
    signed = split == "pool" and data.duplicates.action != "off"
    return RowPlan(
        data.input,
        paths,
        prompt.template,
        split in ("test", "labeled"),
        signed,
        None if split == "target" else data.reference_template,
        tuple(data.context) if split == "pool" else (),
        products=split == "labeled" and data.labeled_references is None,
    )


@dataclass
class _Survey:
    """What the blocks of a source hold together, as far as it does not grow with them."""

    rows: int = 0
    parsed: int = 0
    errors: list[tuple[int, str]] = field(default_factory=list)  # rows without a text, and why
    columns: set[str] = field(default_factory=set)
    absent: Counter[str] = field(default_factory=Counter)
    undefined: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)

    def add(self, block: pa.Table) -> None:
        """Count the rows of the next block, FILLED_SCHEMA."""
        failed = pc.is_valid(block["error"])
        at = np.flatnonzero(failed.to_numpy()) + self.rows
        self.errors += zip(at.tolist(), block["error"].filter(failed).to_pylist(), strict=True)
        self.rows += len(block)
        self.parsed += pc.sum(block["parsed"]).as_py() or 0
        self.absent.update(pc.list_flatten(block["absent"]).to_pylist())
        self.columns |= _collect(block["columns"])
        self.undefined |= _collect(block["undefined"])
        self.defined |= _collect(block["defined"])


def _check_rows(
    survey: _Survey, plan: RowPlan, data: DataConfig, split: SplitName, location: str
) -> None:
    """Raise UserError for mistakes in the configuration, which affect every row; mistakes in single
    rows pass.
    """
    if not survey.rows:
        raise UserError(f"data.{split} is '{location}', which has no rows")
    for path, count in survey.absent.items():
        if count == survey.parsed:
            key = _name_key(path, plan, data, split)
            raise UserError(
                f"{key} names '{path}', a column that no row of '{location}' "
                f"has{recognise_export(survey.columns) or nearest(path, survey.columns)}"
            )
    # A variable that some row defines is optional; one that no row defines is a mistake.
    for variable in sorted(survey.undefined - survey.defined):
        allowed = (
            {column.partition(".")[0] for column in survey.columns} - _top_columns(plan.references)
        ) | {"input"}
        reason = "holds answers" if variable in survey.columns else "is no column"
        raise UserError(
            f"prompt.template names '{variable}', which {reason}{nearest(variable, allowed)}"
        )
    if len(survey.errors) == survey.rows:
        raise UserError(
            f"data.{split} is '{location}', of which no row is usable; the first: "
            f"{survey.errors[0][1]}"
        )


def _merge_repeats(rows: FilledRows, kept: Mask) -> dict[int, list[str]]:
    """Keep the first row of each text alone; return the references of all rows of a text by its
    first row, where it has several.
    """
    positions = pa.array(np.flatnonzero(kept))
    begins = np.cumsum([0, *map(len, rows)])
    contents = pa.chunked_array(
        [
            chunk
            for block, begin in zip(rows, begins, strict=False)
            for chunk in block["content"].filter(pa.array(kept[begin : begin + len(block)])).chunks
        ],
        pa.string(),
    )
    table = pa.table({"content": contents, "row": positions})
    first = table.group_by("content").aggregate([("row", "min"), ("row", "count")])
    again = first.filter(pc.greater(first["row_count"], 1))
    keepers = dict(zip(again["content"].to_pylist(), again["row_min"].to_pylist(), strict=True))
    merged: dict[int, dict[str, None]] = {row: {} for row in keepers.values()}
    for block, begin in zip(rows, begins, strict=False):
        usable = pa.array(kept[begin : begin + len(block)])
        repeated = block.select(["content", "references"]).filter(
            pc.and_(usable, pc.is_in(block["content"], again["content"].combine_chunks()))
        )
        for row in repeated.to_pylist():
            merged[keepers[row["content"]]] |= dict.fromkeys(row["references"])
    kept[:] = False
    kept[first["row_min"].to_numpy()] = True
    return {row: [*references] for row, references in merged.items()}


def _name_key(path: str, plan: RowPlan, data: DataConfig, split: SplitName) -> str:
    """Return the configuration key that names the column `path`."""
    if path == plan.input:
        return "data.input"
    if path in plan.context:
        return "data.context"
    if split == "test" and data.test_references is not None:
        return "data.test_references"
    if split == "labeled" and data.labeled_references is not None:
        return "data.labeled_references"
    return "data.references"


def _top_columns(paths: Iterable[str]) -> set[str]:
    return {name for path in paths for name in (path, path.partition(".")[0])}


def _collect(column: pa.ChunkedArray) -> set[str]:
    return set(pc.unique(pc.list_flatten(column)).to_pylist())


def _draw(kept: Mask, limit: int | None, salt: str) -> None:
    """Keep a random subset of `limit` source rows: those with the smallest salted hashes."""
    rows = np.flatnonzero(kept)
    if limit is not None and limit < len(rows):
        kept[:] = False
        kept[
            heapq.nsmallest(limit, rows.tolist(), lambda row: digest(f"{salt}/{row}", size=64))
        ] = True


def _hash_id(split: str, content: str, row: int) -> str:
    return digest(f"{split}/{content}/{row}", size=12)
