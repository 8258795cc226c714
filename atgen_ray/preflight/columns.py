"""Columns of the pool that selection and the audit group by: one that no row has would be noticed
only after labels, or the model's answers, are paid for.
"""

import json
from collections.abc import Iterator

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import nearest
from atgen_ray.data import open_split
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.preflight.check import Setting
from atgen_ray.preflight.inputs import Inputs
from atgen_ray.selection import find_needs


def check_columns(setting: Setting, inputs: Inputs) -> Iterator[str]:
    """Check that some row of a small pool has each column that is grouped by."""
    asked = dict(list_columns(setting.config))
    if not asked or inputs.pool is None:
        return
    known = read_columns(setting.config)
    for key, column in asked.items():
        if column not in known:
            yield (
                f"{key} is '{column}', expected a column of the pool with short values"
                f"{nearest(column, sorted(known)) if known else ''}"
            )


def list_columns(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield key and name of each column of the pool that examples are grouped by."""
    audit = config.evaluation.audit
    if audit is not None and audit.column is not None:
        yield "evaluation.audit.column", audit.column
    selection = config.selection
    first, shortlist = selection.first, selection.shortlist
    named = {
        "selection.first": (first.strategy, first.parameters),
        "selection": (selection.strategy, selection.parameters),
        "selection.shortlist": (
            shortlist and shortlist.strategy,
            shortlist and shortlist.parameters,
        ),
    }
    for key, (strategy, parameters) in named.items():
        column = (parameters or {}).get("column")
        if strategy and column and "fields" in find_needs(strategy, parameters or {}):
            yield f"{key}.parameters.column", str(column)


def read_columns(config: RunConfig) -> set[str]:
    """Return the columns of the pool that have short values in some row."""
    seed = config.seed if config.data.seed is None else config.data.seed
    off = config.data.duplicates.model_copy(update={"action": "off"})
    data = config.data.model_copy(update={"duplicates": off})
    with reading_in_process():
        reader = open_split(data, config.prompt, "pool", seed, fields=True)
        return {
            name
            for _, _, context in reader.read()
            for row in context["fields"].to_pylist()
            for name in json.loads(row or "{}")
        }
