"""Guidelines of a run, by version. Version 1 is the configuration's; an admin writes later ones
while the run goes on, and each answer of a person knows which one its person had.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.store.tables import guidelines

FIRST = 1  # the version of the configuration


@dataclass(frozen=True)
class Guidelines:
    """One version: Markdown, what changed in a line, who wrote it and when (None for the first)."""

    version: int
    text: str
    reason: str = ""
    author: str | None = None
    time: float | None = None


def read_first(guidelines: str, config: Mapping[str, Any]) -> str:
    """Return the text of version 1: `guidelines`, or the model's instructions in a run's
    configuration where nobody wrote any.
    """
    prompt = config.get("prompt") or {}
    template = prompt.get("template", "")
    parts = [prompt.get("system") or "", "" if template.strip() == "{{ input }}" else template]
    return guidelines or "\n\n".join(part for part in parts if part)


def list_guidelines(connection: sa.Connection, run: str, first: str) -> list[Guidelines]:
    """Return all versions, the newest first; `first` is the text of the configuration."""
    query = sa.select(guidelines).where(guidelines.c.run == run)
    rows = connection.execute(query.order_by(guidelines.c.version.desc())).mappings()
    return [*map(_read, rows), Guidelines(FIRST, first)]


def find_guidelines(
    connection: sa.Connection, run: str, until: float | None = None
) -> Guidelines | None:
    """Return the newest version that somebody wrote, None where the configuration's holds. `until`
    leaves out later ones.
    """
    query = sa.select(guidelines).where(guidelines.c.run == run)
    if until is not None:
        query = query.where(guidelines.c.time <= until)
    last = query.order_by(guidelines.c.version.desc()).limit(1)
    row = connection.execute(last).mappings().one_or_none()
    return None if row is None else _read(row)


def read_version(connection: sa.Connection, run: str) -> int:
    """Return the number of the newest version."""
    query = sa.select(sa.func.max(guidelines.c.version)).where(guidelines.c.run == run)
    return connection.execute(query).scalar_one() or FIRST


def enter_guidelines(connection: sa.Connection, run: str, new: Guidelines) -> None:
    """Enter a version; its number must be free."""
    row = {
        "run": run,
        "version": new.version,
        "text": new.text,
        "reason": new.reason,
        "author": new.author,
        "time": new.time,
    }
    connection.execute(sa.insert(guidelines).values(row))


def join_guidelines(own: str, first: str, newest: Guidelines | None) -> str:
    """Return the guidelines of an annotating model beside people, whose configuration has `first`.

    The newest version takes the place of the model's `own` where these are none or those of the
    people; else it follows them.
    """
    if newest is None:
        return own
    if not own.strip() or own.strip() == first.strip():
        return newest.text
    return f"{own}\n\n{newest.text}"


def _read(row: sa.RowMapping) -> Guidelines:
    return Guidelines(row["version"], row["text"], row["reason"], row["author"], row["time"])
