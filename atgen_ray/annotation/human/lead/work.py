"""Who did what in a run: each person's answers by hour, edits and last sign of life, and what is to
be paid to whom. The cost of a query grows with what people did, but no text is read for more than
the latest answers.
"""

import csv
import io
import statistics
from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.gold import is_gold
from atgen_ray.annotation.human.task_store import IMPORTED, open_task_store
from atgen_ray.core.money import NANO
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, ledger, tasks

HOUR = 3600  # seconds
HOURS = 48  # with answers, that are shown
LATEST = 200  # answers of a person, over which times and edits are computed
# An imported answer is nobody's work.
_BY_HAND = sa.func.coalesce(sa.cast(assignments.c.note, sa.String), "") != f'"{IMPORTED}"'


def list_work(journal: Journal, run: str) -> dict[str, Any]:
    """Return `people`, by the number of answers, and `hours`, the newest first.

    A person has `submitted`, `skipped`, `flagged` and `leased` (in hand now); `seconds`, the median
    time of an answer, and `edited`, the share of answers that differ from the draft, both over the
    last 200 answers and None where unknown; `first` and `last`, the times of answers; and `seen`,
    the last answer or lease. An hour has its `start` and the `answers` of each person. Times are
    seconds since 1970.

    Raises:
        TaskUnknownError, TaskConflictError: as `open_task_store`.
    """
    open_task_store(journal, run)
    mine = assignments.c.run == run
    hour = sa.cast(sa.func.floor(assignments.c.answered / HOUR), sa.Integer).label("hour")
    answered = mine & (assignments.c.state == "submitted") & _BY_HAND
    with journal.database.reading() as connection:
        now = journal.database.clock(connection)
        live = (assignments.c.state != "leased") | (assignments.c.until > now)
        states = sa.select(
            assignments.c.annotator,
            assignments.c.state,
            sa.func.count().label("number"),
            sa.func.sum(sa.case((live, 1), else_=0)).label("live"),
            sa.func.min(assignments.c.answered).label("first"),
            sa.func.max(assignments.c.answered).label("last"),
            sa.func.max(assignments.c.leased).label("leased"),
        ).where(mine & _BY_HAND)
        counted = connection.execute(
            states.group_by(assignments.c.annotator, assignments.c.state)
        ).all()
        by_hour = connection.execute(
            sa.select(assignments.c.annotator, hour, sa.func.count().label("number"))
            .where(answered & assignments.c.answered.is_not(None))
            .group_by(assignments.c.annotator, hour)
        ).all()
        names = sorted({row.annotator for row in counted})
        latest = {name: _measure_latest(connection, run, name) for name in names}
    people = [
        _describe(name, [row for row in counted if row.annotator == name]) | latest[name]
        for name in names
    ]
    hours: dict[int, dict[str, int]] = defaultdict(dict)
    for row in by_hour:
        hours[row.hour][row.annotator] = int(row.number)
    return {
        "people": sorted(people, key=lambda one: (-one["submitted"], one["annotator"])),
        "hours": [
            {"start": start * HOUR, "answers": hours[start]}
            for start in sorted(hours, reverse=True)[:HOURS]
        ],
    }


def list_payments(journal: Journal, run: str) -> list[dict[str, Any]]:
    """Return what is to be paid to whom: `person`, `answers`, `seconds`, `accepted`, `price` and
    `dollars`; a row for each price at which the person worked.

    An answer is accepted once the run has taken its label or given its task up, and is then paid at
    the price of its publication, as in the ledger. Imported answers are not paid.

    Raises:
        TaskUnknownError, TaskConflictError: as `open_task_store`.
    """
    open_task_store(journal, run)
    # Tasks of earlier versions have no price of their own.
    held = sa.func.coalesce(ledger.c.held, 0) // tasks.c.wanted
    price = sa.func.coalesce(tasks.c.price, held).label("price")
    of_task = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    of_entry = (ledger.c.run == tasks.c.run) & (ledger.c.key == "human-" + tasks.c.example_id)
    query = (
        sa.select(
            assignments.c.annotator,
            price,
            sa.func.count().label("answers"),
            sa.func.sum(sa.func.coalesce(assignments.c.seconds, 0.0)).label("seconds"),
            sa.func.sum(sa.case((ledger.c.paid.is_not(None), 1), else_=0)).label("accepted"),
        )
        .select_from(assignments)
        .join(tasks, of_task)
        .outerjoin(ledger, of_entry)
        .where((assignments.c.run == run) & (assignments.c.state == "submitted") & _BY_HAND)
        .group_by(assignments.c.annotator, price)
        .order_by(assignments.c.annotator, price)
    )
    with journal.database.reading() as connection:
        rows = connection.execute(query).all()
    return [
        {
            "person": row.annotator,
            "answers": int(row.answers),
            "seconds": round(float(row.seconds), 1),
            "accepted": int(row.accepted),
            "price": int(row.price) / NANO,
            "dollars": int(row.accepted) * int(row.price) / NANO,
        }
        for row in rows
    ]


def write_payments(rows: list[dict[str, Any]]) -> str:
    """Return rows of `list_payments` as CSV. A name that a spreadsheet would take for a formula
    gets an apostrophe before it.
    """
    text = io.StringIO()
    columns = ("person", "answers", "seconds", "accepted", "price", "dollars")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        risky = row["person"][:1] in ("=", "+", "-", "@", "\t", "\r")
        writer.writerow(row | {"person": f"'{row['person']}" if risky else row["person"]})
    return text.getvalue()


def _describe(name: str, rows: list[Any]) -> dict[str, Any]:
    counts = {row.state: int(row.number) for row in rows}
    firsts = [row.first for row in rows if row.first is not None]
    lasts = [row.last for row in rows if row.last is not None]
    return {
        "annotator": name,
        "submitted": counts.get("submitted", 0),
        "skipped": counts.get("skipped", 0),
        "flagged": counts.get("flagged", 0),
        "leased": sum(int(row.live) for row in rows if row.state == "leased"),
        "first": min(firsts, default=None),
        "last": max(lasts, default=None),
        "seen": max([*lasts, *(row.leased for row in rows)], default=None),
    }


def _measure_latest(connection: sa.Connection, run: str, name: str) -> dict[str, float | None]:
    """Return median seconds and share of edits of a person's latest answers."""
    of_task = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    query = sa.select(assignments.c.text, assignments.c.seconds, tasks.c.suggestion)
    query = query.select_from(assignments).join(tasks, of_task)
    query = query.where((assignments.c.run == run) & (assignments.c.annotator == name))
    query = query.where((assignments.c.state == "submitted") & _BY_HAND & ~is_gold())
    rows = connection.execute(query.order_by(assignments.c.answered.desc()).limit(LATEST)).all()
    seconds = [row.seconds for row in rows if row.seconds is not None]
    drafted = [row for row in rows if row.suggestion is not None]
    edited = sum(row.text != row.suggestion["text"] for row in drafted)
    return {
        "seconds": statistics.median(seconds) if seconds else None,
        "edited": edited / len(drafted) if drafted else None,
    }
