"""Small tables for a notebook. Everything that is shown is escaped: names and texts may come out of
a dataset.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def format_pairs(title: str, pairs: Iterable[tuple[str, Any]]) -> str:
    """Format a table with a name and a value in each row."""
    rows = "".join(
        f'<tr><th style="text-align:left">{_text(name)}</th>'
        f'<td style="text-align:left">{_text(value)}</td></tr>'
        for name, value in pairs
    )
    return f"<table><caption>{_text(title)}</caption><tbody>{rows}</tbody></table>"


def format_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table with a row of column names."""
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_text(value)}</td>' for value in row)}</tr>" for row in rows
    )
    return (
        f"<table><caption>{_text(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "<br>".join(_text(item) for item in value)
    return escape(str(value))
