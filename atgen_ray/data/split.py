"""Reading of a split: every usable row as an example with an id, its answers in a separate table,
and the unusable rows.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.hashing import digest
from atgen_ray.core.records import GOLD_SCHEMA, POOL_SCHEMA, DeadLetter, Progress
from atgen_ray.data.duplicates import find_duplicates
from atgen_ray.data.in_process import Blocks
from atgen_ray.data.rows import FILLED_SCHEMA, RowPlan, fill_rows
from atgen_ray.models.user_template import check_template
from atgen_ray.ray_runtime.hardware import share_cpus

if TYPE_CHECKING:
    from atgen_ray.data.sources import Source

SplitName = Literal["pool", "test"]


@dataclass(frozen=True)
class Split:
    """A split as the steps of a run see it. Only `gold` has answers."""

    examples: pa.Table  # POOL_SCHEMA, in the order of the source
    gold: pa.Table  # GOLD_SCHEMA: a row for each example that has references
    dead: list[DeadLetter]  # rows that gave no example


def build_split(
    data: DataConfig,
    prompt: PromptConfig,
    split: SplitName,
    seed: int,
    progress: Progress | None = None,
) -> Split:
    """Read data.pool or data.test, through Ray Data or inside `reading_in_process` in this process.

    Ids are hashes of the split, the text and the source row; `limit` keeps a subset that depends
    on `seed` and the source rows alone. Near-duplicates are marked in the pool only, among the
    rows kept. A row of the test set needs a reference, a row of the pool does not. `progress` is
    called with the rows read so far, as both numbers: a text file does not tell how many it
    holds.

    Raises:
        UserError: the location does not exist, a configured column or variable exists in no row, or
            no row is usable.

    Example:
        split = build_split(config.data, config.prompt, "pool", seed=config.seed)
        texts = split.examples["text"].to_pylist()
    """
    from atgen_ray.data.sources import open_source, parse_split

    location = data.pool if split == "pool" else data.test
    if location is None:
        raise UserError("data.test is null, expected the location of the test set")
    plan = _plan_rows(data, prompt, split)
    name, part = parse_split(
        data.pool_split if split == "pool" else data.test_split, f"data.{split}_split"
    )
    source = open_source(data, f"data.{split}", location, name)
    rows = _fill_source(source, plan, f"data.{split} is '{location}'", progress)
    _check_rows(rows, plan, data, split, location)

    inside = range(*part.indices(rows.num_rows))
    if not inside:
        asked = data.pool_split if split == "pool" else data.test_split
        raise UserError(
            f"data.{split}_split is '{asked}', but '{location}' has {rows.num_rows} rows, none of "
            f"them there"
        )
    dead = [
        DeadLetter(f"row-{row}" if split == "pool" else f"{split}-row-{row}", "pool", reason)
        for row, reason in enumerate(rows["error"].to_pylist())
        if reason is not None and row in inside
    ]
    # Use Python's integers: `in` compares a numpy integer with every member of a range.
    sound = np.flatnonzero(rows["error"].is_null().to_numpy()).tolist()
    usable = np.array([row for row in sound if row in inside], dtype=int)
    if not usable.size:
        raise UserError(
            f"data.{split} is '{location}', of which no row that is asked for is usable; the "
            f"first: {dead[0].reason}"
        )
    if data.merge_repeats:
        rows, usable = _merge_repeats(rows, usable)
    kept = _draw(usable, data.limit if split == "pool" else data.test_limit, f"{seed}/{split}")
    mask = np.zeros(rows.num_rows, dtype=bool)
    mask[kept] = True
    # `filter` works chunk by chunk, whatever the length of the texts; `take` does not.
    rows = rows.filter(pa.array(mask))
    ids = [
        _hash_id(split, content, row)
        for content, row in zip(rows["content"].to_pylist(), kept, strict=True)
    ]
    duplicate_of: list[str | None] = [None] * len(ids)
    if plan.signed:
        signatures = rows["signature"].to_pylist()
        duplicate_of = find_duplicates(ids, signatures, data.duplicates.threshold)
    examples = pa.table(
        [
            pa.array(ids),
            pa.array(kept),
            rows["text"],
            rows["content"],
            pa.array(duplicate_of, pa.string()),
        ],
        schema=POOL_SCHEMA,
    )
    gold = pa.table([pa.array(ids), rows["references"]], schema=GOLD_SCHEMA)
    return Split(
        examples, gold.filter(pc.greater(pc.list_value_length(gold["references"]), 0)), dead
    )


def overlap(pool: pa.Table, test: pa.Table) -> list[str]:
    """Return the ids of the pool's examples whose content is in the test set too: training on them
    would leak it.
    """
    shared = pc.is_in(pool["content"], value_set=test["content"].combine_chunks())
    return pool["id"].filter(shared).to_pylist()


def _plan_rows(data: DataConfig, prompt: PromptConfig, split: SplitName) -> RowPlan:
    """Return what to take from every row of the split."""
    references = data.references
    if split == "test" and data.test_references is not None:
        references = data.test_references
    if split == "test" and not references:
        raise UserError(
            "data.test is given without data.test_references (or data.references), the answers' "
            "column"
        )
    check_template(prompt.template)
    if data.reference_template is not None:
        check_template(data.reference_template, "data.reference_template")
    paths = (references,) if isinstance(references, str) else tuple(references or ())
    signed = split == "pool" and data.duplicates.action != "off"
    return RowPlan(
        data.input, paths, prompt.template, split == "test", signed, data.reference_template
    )


def _fill_source(
    source: "Source", plan: RowPlan, named: str, progress: Progress | None
) -> pa.Table:
    """Run the map over all rows and return FILLED_SCHEMA in the order of the source."""
    if isinstance(source.dataset, Blocks):
        return _fill_in_process(source, plan, named)

    # Every dataset has its own context: other users of Ray Data in this process are not affected.
    context = source.dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    options = context.execution_options
    options.preserve_order = True
    filled = source.dataset.map_batches(
        _fill_block,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"decode": source.decode, "plan": plan},
        **share_cpus(),
    )
    blocks: list[pa.Table] = []
    done = 0
    for block in _stream_blocks(filled, named):
        blocks.append(block)
        done += block.num_rows
        if progress is not None:
            progress(done, done)
    return pa.concat_tables(blocks).cast(FILLED_SCHEMA) if blocks else FILLED_SCHEMA.empty_table()


def _fill_in_process(source: "Source", plan: RowPlan, named: str) -> pa.Table:
    """Fill the rows without Ray; otherwise like `_fill_source`."""
    try:
        blocks = [_fill_block(block, source.decode, plan) for block in source.dataset]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{named}, which cannot be read: {_find_reason(error)}") from error
    return pa.concat_tables(blocks).cast(FILLED_SCHEMA) if blocks else FILLED_SCHEMA.empty_table()


def _stream_blocks(dataset: Any, named: str) -> Iterator[pa.Table]:
    # Ray Data logs the error of a reader with its traceback; here it becomes a UserError instead.
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{named}, which cannot be read: {_find_reason(error)}") from error
    finally:
        logger.setLevel(level)


def _fill_block(block: pa.Table, decode: Any, plan: RowPlan) -> pa.Table:
    return fill_rows(decode(block), plan)


def _find_reason(error: BaseException) -> str:
    """Return the first line of a worker's error, without its traceback."""
    cause = getattr(error, "cause", error)
    return next(iter(str(cause).splitlines()), type(cause).__name__)


def _check_rows(
    rows: pa.Table, plan: RowPlan, data: DataConfig, split: SplitName, location: str
) -> None:
    """Raise UserError for mistakes in the configuration, which affect every row; mistakes in single
    rows pass.
    """
    if rows.num_rows == 0:
        raise UserError(f"data.{split} is '{location}', which has no rows")
    parsed = pc.sum(rows["parsed"]).as_py()
    columns = _collect(rows["columns"])
    for path, count in _count(rows["absent"]).items():
        if count == parsed:
            key = _name_key(path, plan, data, split)
            raise UserError(
                f"{key} names '{path}', a column that no row of '{location}' "
                f"has{nearest(path, columns)}"
            )
    # A variable that some row defines is optional; one that no row defines is a mistake.
    unknown = _count(rows["undefined"]).keys() - _collect(rows["defined"])
    for variable in sorted(unknown):
        allowed = (
            {column.partition(".")[0] for column in columns} - _top_columns(plan.references)
        ) | {"input"}
        reason = "holds answers" if variable in columns else "is no column"
        raise UserError(
            f"prompt.template names '{variable}', which {reason}{nearest(variable, allowed)}"
        )
    if rows["error"].null_count == 0:
        raise UserError(
            f"data.{split} is '{location}', of which no row is usable; the first: "
            f"{rows['error'][0]}"
        )


def _merge_repeats(rows: pa.Table, usable: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """Keep the first row of each text, with the references of all rows of that text."""
    content = rows["content"].to_pylist()
    references = rows["references"].to_pylist()
    first: dict[str, int] = {}
    for row in usable.tolist():
        keeper = first.setdefault(content[row], row)
        if keeper != row:
            references[keeper] = list(dict.fromkeys([*references[keeper], *references[row]]))
    at = rows.schema.get_field_index("references")
    merged = rows.set_column(
        at, "references", pa.array(references, rows.schema.field("references").type)
    )
    return merged, np.array(sorted(first.values()), dtype=int)


def _name_key(path: str, plan: RowPlan, data: DataConfig, split: SplitName) -> str:
    """Return the configuration key that names the column `path`."""
    if path == plan.input:
        return "data.input"
    if split == "test" and data.test_references is not None:
        return "data.test_references"
    return "data.references"


def _top_columns(paths: Iterable[str]) -> set[str]:
    return {name for path in paths for name in (path, path.partition(".")[0])}


def _collect(column: pa.ChunkedArray) -> set[str]:
    return set(pc.unique(pc.list_flatten(column)).to_pylist())


def _count(column: pa.ChunkedArray) -> Counter[str]:
    return Counter(pc.list_flatten(column).to_pylist())


def _draw(rows: np.ndarray, limit: int | None, salt: str) -> list[int]:
    """Return a random subset of `limit` source rows, in their order: those with the smallest salted
    hashes.
    """
    ordered: Iterable[int] = rows.tolist()
    if limit is None or limit >= len(rows):
        return list(ordered)
    drawn = sorted(ordered, key=lambda row: digest(f"{salt}/{row}", size=64))[:limit]
    return sorted(drawn)


def _hash_id(split: str, content: str, row: int) -> str:
    return digest(f"{split}/{content}/{row}", size=12)
