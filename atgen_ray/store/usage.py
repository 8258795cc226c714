"""Tokens of models by caller, model and day, and what they cost.

Answers are added in sums. What a fine-tuning job was trained on is read from its run's journal,
which has each training once: it is entered under the job and the round, so that no kill and no
second look counts it twice, and before the run is removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from atgen_ray.core.errors import UserError
from atgen_ray.core.money import NANO, to_nano
from atgen_ray.store.database import Database
from atgen_ray.store.events import STEP
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import events, trained_usage, tuning_jobs, usage

DAY = 86_400.0  # seconds
MILLION = 1_000_000


@dataclass
class Spent:
    """Tokens that were read and written, and what they cost in billionths of a dollar."""

    input_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0


def price_tokens(tokens: int, dollars: float) -> int:
    """Return the price in billionths of a dollar at so many dollars a million tokens."""
    return to_nano(tokens * dollars / MILLION)


def add_usage(database: Database, sums: Mapping[tuple[str, str, int], Spent]) -> None:
    """Add sums by caller, model and day (since 1970, UTC)."""
    with database.writing() as connection:
        for (by, model, day), spent in sums.items():
            key = {"by": by, "model": model, "day": day}
            empty = dict.fromkeys(vars(spent), 0)
            connection.execute(database.insert_new(usage).values(key | empty))
            mine = sa.and_(*(usage.c[name] == value for name, value in key.items()))
            more = {name: usage.c[name] + value for name, value in vars(spent).items()}
            connection.execute(sa.update(usage).where(mine).values(more))


def enter_trained(database: Database, storage: str, run: str | None = None) -> None:
    """Enter what jobs were trained on since the last look; `run` None: all jobs."""
    trained = (events.c.run == tuning_jobs.c.run) & (events.c.kind == STEP)
    trained &= (events.c.step == "training") & (events.c.round > 0)
    known = sa.exists().where(
        (trained_usage.c.job == tuning_jobs.c.id) & (trained_usage.c.round == events.c.round)
    )
    query = sa.select(tuning_jobs, events.c.round, events.c.time).join(events, trained)
    query = query.where(~known)
    if run is not None:
        query = query.where(tuning_jobs.c.run == run)
    with database.reading() as connection:
        found = connection.execute(query).mappings().all()
    rows = [row for each in found if (row := _read_trained(each, storage)) is not None]
    if rows:
        with database.writing() as connection:
            connection.execute(database.insert_new(trained_usage), rows)


def _read_trained(job: Mapping[Any, Any], storage: str) -> dict[str, Any] | None:
    folder = RunFolder(storage, job["run"])
    path = str(PurePosixPath(round_folder(job["round"]), "training.json"))
    if not folder.exists(path):  # its controller is about to name it, or somebody removed it
        return None
    tokens = folder.read_json(path)["tokens"] * job["tree"]["training"]["epochs"]
    return {
        "job": job["id"],
        "round": job["round"],
        "by": job["by"],
        "model": job["asked"]["model"],
        "day": int(job["time"] // DAY),
        "tokens": tokens,
        "nano": price_tokens(tokens, job["price"] or 0.0),
    }


def sum_usage(database: Database, by: str, first: int) -> tuple[int, int]:
    """Return the tokens of a caller from the day `first` on, and billionths of a dollar."""
    answered = sa.select(
        sa.func.sum(usage.c.input_tokens + usage.c.output_tokens), sa.func.sum(usage.c.nano)
    ).where((usage.c.by == by) & (usage.c.day >= first))
    trained = sa.select(
        sa.func.sum(trained_usage.c.tokens), sa.func.sum(trained_usage.c.nano)
    ).where((trained_usage.c.by == by) & (trained_usage.c.day >= first))
    with database.reading() as connection:
        sums = [connection.execute(query).one() for query in (answered, trained)]
    return sum(int(row[0] or 0) for row in sums), sum(int(row[1] or 0) for row in sums)


def list_usage(database: Database, by: str | None, first: date, last: date) -> list[dict[str, Any]]:
    """Return a row for each caller, model and day of UTC from `first` to `last`, the oldest first.

    Args:
        by: whose; None: everybody's.
    """
    start, end = ((day - date(1970, 1, 1)).days for day in (first, last))
    found: dict[tuple[int, str, str], dict[str, Any]] = {}
    with database.reading() as connection:
        for table in (usage, trained_usage):
            query = sa.select(table).where(table.c.day.between(start, end))
            if by is not None:
                query = query.where(table.c.by == by)
            for row in connection.execute(query).mappings():
                _add_row(found, row)
    rows = [found[key] for key in sorted(found)]
    return [row | {"dollars": row.pop("nano") / NANO} for row in rows]


def list_month(database: Database, month: str | None) -> list[dict[str, Any]]:
    """Return the rows of everybody in a month, YYYY-MM; None: in this one.

    Raises:
        UserError: it is no month.
    """
    with database.reading() as connection:
        today = datetime.fromtimestamp(database.clock(connection), UTC)
    named = month or f"{today:%Y-%m}"
    try:
        first = datetime.strptime(named, "%Y-%m").date()
    except ValueError:
        raise UserError(f"--month is {named[:80]!r}, expected YYYY-MM, as 2026-11") from None
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return list_usage(database, None, first, last)


def _add_row(found: dict[tuple[int, str, str], dict[str, Any]], row: Mapping[Any, Any]) -> None:
    key = row["day"], row["by"], row["model"]
    day = datetime.fromtimestamp(row["day"] * DAY, UTC).date().isoformat()
    counts = ("input_tokens", "output_tokens", "trained_tokens", "nano")
    sums = found.setdefault(
        key, {"day": day, "by": row["by"], "model": row["model"]} | dict.fromkeys(counts, 0)
    )
    for name in ("input_tokens", "output_tokens", "nano"):
        sums[name] += row.get(name) or 0
    sums["trained_tokens"] += row.get("tokens") or 0
