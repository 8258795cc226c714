"""Tables of dataclasses as Markdown for people and CSV for programs."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from atgen_ray.bench.analysis.statistics import Interval, Reach
from atgen_ray.reporting.formats import DASH

ROUNDING = 1e-12  # error of a difference between two equal means


def write_markdown(rows: Sequence[Any], columns: Sequence[str] = ()) -> str:
    """Return a table of `columns`, by default of all fields; an interval and its bounds share a
    cell.
    """
    if not rows:
        return "Nothing was measured.\n"
    names = list(columns) or [field.name for field in fields(rows[0])]
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + " --- |" * len(names),
    ]
    lines += [
        "| " + " | ".join(write_cell(getattr(row, name)) for name in names) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def write_csv(rows: Sequence[Any]) -> str:
    """Return a line a row; an interval becomes the columns NAME.mean, NAME.low, NAME.high and
    NAME.count.
    """
    flat = [flatten(asdict(row)) for row in rows]
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def write_cell(value: Any) -> str:
    """Return a value as text for a table."""
    if value is None:
        return DASH
    if isinstance(value, Reach):
        return _write_reach(value)
    if isinstance(value, Interval):
        if math.isnan(value.low):
            return f"{_number(value.mean)} (no interval, n = {value.count})"
        return f"{_number(value.mean)} [{_number(value.low)}, {_number(value.high)}]"
    return _number(value) if isinstance(value, float) else str(value).replace("|", "\\|")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    parts = (
        flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()
    )
    return {key: item for part in parts for key, item in part.items()}


def _write_reach(reach: Reach) -> str:
    labels = reach.labels
    if reach.reached == 0:
        return f"not within {reach.last:g}"
    if math.isnan(labels.low):
        return f"{labels.mean:.1f} (no interval, n = {labels.count})"
    high = (
        f"{labels.high:.1f}"
        if labels.high < reach.last or reach.reached == 1
        else f"{reach.last:g} or never"
    )
    return f"{labels.mean:.1f} [{labels.low:.1f}, {high}]"


def _number(value: float) -> str:
    if value == math.inf:
        return "no bound"
    if not math.isfinite(value):
        return DASH
    if ROUNDING < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:z.3f}" if abs(value) < 100 else f"{value:,.0f}"
