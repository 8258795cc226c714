"""The first rows of a data set, and the prompts that a configuration makes of them, before a run.

Everything is read in this process, without Ray, and no further than the rows that are shown.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.data.in_process import reading_head
from atgen_ray.data.rows import RowPlan, fill_rows
from atgen_ray.data.sources import open_source, parse_split
from atgen_ray.models.user_template import check_template

HEAD_ROWS = 50


def read_head(data: DataConfig, count: int = HEAD_ROWS) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the first rows of the pool that can be read, and the reasons why others among them
    cannot.

    Raises:
        UserError: nothing is there, or nothing of it can be read.
    """
    name, _ = parse_split(data.pool_split, "data.pool_split")
    rows: list[dict[str, Any]] = []
    errors: list[str] = []
    with reading_head():
        source = open_source(data, "data.pool", data.pool, name)
        try:
            decoded = (row for block in source.dataset for row in source.decode(block))
            for record, error, place in islice(decoded, count):
                if error is None and isinstance(record, dict):
                    rows.append(record)
                else:
                    kind = f"is of type {type(record).__name__}, expected an object with columns"
                    errors.append(place + (error or kind))
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"data.pool is '{data.pool}', which cannot be read: {reason}") from None
    if not rows:
        raise UserError(
            f"data.pool is '{data.pool}', which has no rows that can be read"
            + (f"; the first: {errors[0]}" if errors else "")
        )
    return rows, errors


def fill_head(
    rows: Sequence[dict[str, Any]], data: DataConfig, prompt: PromptConfig
) -> list[dict[str, Any]]:
    """Return for each row its user turn (`text`) and its known answers (`references`), or the
    reason why it has none (`error`).

    Raises:
        UserError: prompt.template is not valid.
    """
    check_template(prompt.template)
    references = data.references
    paths = (references,) if isinstance(references, str) else tuple(references or ())
    plan = RowPlan(data.input, paths, prompt.template, False, False, data.reference_template)
    filled = fill_rows([(row, None, "") for row in rows], plan).to_pylist()
    return [
        {
            "text": row["text"],
            "references": row["references"] or [],
            "error": row["error"] or _explain_absent(row, data),
        }
        for row in filled
    ]


def _explain_absent(row: dict[str, Any], data: DataConfig) -> str | None:
    absent = row["absent"] or []
    return f"has no '{absent[0]}'" if absent else None
