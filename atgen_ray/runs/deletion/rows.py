"""Rows of the journal without what goes.

An example or a label goes from every row that has its id; money stays in the ledger. In rows that
no example owns (events, guidelines) its text is taken out wherever it stands. A person gets a
pseudonym everywhere. Rows of other examples that have the same text are counted only.
"""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.round_tasks import name_entry
from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.llm.request_totals import recount_requests
from atgen_ray.core.money import to_nano
from atgen_ray.core.records import DELETED
from atgen_ray.runs.deletion.certificate import Certificate, Remaining, Removed
from atgen_ray.runs.deletion.redaction import Redaction, change_strings, list_strings
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import (
    TABLES,
    annotations,
    assignees,
    assignments,
    bulk_tasks,
    dead_letters,
    deletions,
    ledger,
    remarks,
    requests,
    reviews,
    revisions,
    runs,
    shards,
    tasks,
)
from atgen_ray.store.totals import recount

PAGE = 500  # rows, and ids in a statement
REASON = "deleted on request"
# Columns of what people write to each other. In other texts, which are data, a name is counted.
SPOKEN = {"note", "reason", "comment", "payload", "detail", "explanation", "filename", "asked"}
# Tables whose rows stay as they are. The audit log is chained by hash and has no text of examples;
# `redact_within` takes a person out of its entries.
APART = ("audit", "audit_head")


def purge_examples(
    journal: Journal, connection: sa.Connection, run: str, redaction: Redaction, out: Certificate
) -> None:
    """Take the examples of `redaction`, or their labels by one annotator, out of the rows of
    `run`, within a transaction that holds its lock.
    """
    for ids in _pages(sorted(redaction.ids)):
        _purge_labels(connection, run, ids, redaction, out)
        _purge_requests(connection, run, ids, redaction, out)
        if redaction.whole or str(redaction.annotator).startswith("human/"):
            _purge_tasks(connection, run, ids, redaction, out)
        _bury(journal, connection, run, ids, redaction, out)
    recount(connection, run)
    recount_requests(connection, run)


def _purge_labels(
    connection: sa.Connection, run: str, ids: list[str], redaction: Redaction, out: Certificate
) -> None:
    mine = (annotations.c.run == run) & annotations.c.example_id.in_(ids)
    if not redaction.whole:
        mine &= annotations.c.annotator == redaction.annotator
    known = sa.select(ledger.c.example_id).where(
        (ledger.c.run == run) & ledger.c.example_id.in_(ids)
    )
    entered = set(connection.execute(known).scalars())
    for row in connection.execute(sa.select(annotations).where(mine)).mappings().all():
        # What was paid without an entry in the ledger has one from now on.
        if row["dollars"] and row["example_id"] not in entered:
            nano = to_nano(row["dollars"])
            entry = {"run": run, "key": f"{DELETED}-{row['id']}", "round": row["round"]}
            entry |= {"annotator": row["annotator"], "example_id": row["example_id"]}
            connection.execute(sa.insert(ledger).values(entry | {"held": nano, "paid": nano}))
    gone = connection.execute(sa.delete(annotations).where(mine)).rowcount
    out.add(Removed(_place(run, annotations), "labels", gone))
    if not redaction.whole:
        mine = (revisions.c.run == run) & revisions.c.example_id.in_(ids)
        mine &= revisions.c.round.is_not(None)
    else:
        mine = (revisions.c.run == run) & revisions.c.example_id.in_(ids)
    # The rows stay: their numbers tell which labels changed after a training.
    emptied = {"before": sa.null(), "after": sa.null(), "reason": sa.null()}
    has = revisions.c.before.is_not(None) | revisions.c.after.is_not(None)
    has |= revisions.c.reason.is_not(None)
    changed = connection.execute(sa.update(revisions).where(mine & has).values(emptied)).rowcount
    out.add(Removed(_place(run, revisions), "changes of answers and labels", changed))


def _purge_requests(
    connection: sa.Connection, run: str, ids: list[str], redaction: Redaction, out: Certificate
) -> None:
    """Empty raw answers; a request whose answer never came is settled at its worst case."""
    mine = (requests.c.run == run) & requests.c.example_id.in_(ids)
    if not redaction.whole:
        mine &= requests.c.annotator == redaction.annotator
    open_ones = sa.select(requests.c.custom_id).where(mine & (requests.c.state == "sent"))
    lost = list(connection.execute(open_ones).scalars())
    has = requests.c.response.is_not(None) | requests.c.reason.is_not(None)
    has |= (requests.c.prompt_hash != "") | (requests.c.state == "sent")
    values: dict[str, Any] = {"response": sa.null(), "reason": sa.null(), "prompt_hash": ""}
    values["state"] = sa.case((requests.c.state == "sent", "lost"), else_=requests.c.state)
    changed = connection.execute(sa.update(requests).where(mine & has).values(values)).rowcount
    out.add(Removed(_place(run, requests), "raw answers of models", changed))
    for some in _pages(lost):
        held = (ledger.c.run == run) & ledger.c.key.in_(some) & ledger.c.paid.is_(None)
        connection.execute(sa.update(ledger).where(held).values(paid=ledger.c.held))
    waiting = (requests.c.run == shards.c.run) & (requests.c.shard == shards.c.hash)
    over = (shards.c.run == run) & ~shards.c.done
    over &= ~sa.exists().where(waiting & (requests.c.state == "sent"))
    if lost:
        connection.execute(sa.update(shards).where(over).values(done=True))


def _purge_tasks(
    connection: sa.Connection, run: str, ids: list[str], redaction: Redaction, out: Certificate
) -> None:
    """Remove tasks with all that people did on them. Answers that were given count as paid."""
    given = sa.select(assignments.c.example_id).where(
        (assignments.c.run == run)
        & assignments.c.example_id.in_(ids)
        & (assignments.c.state == "submitted")
    )
    worked = set(connection.execute(given).scalars())
    for id_ in ids:
        key = (ledger.c.key == name_entry(id_)) | ledger.c.key.startswith(f"{name_entry(id_)}/")
        held = (ledger.c.run == run) & key & ledger.c.paid.is_(None)
        paid = ledger.c.held if id_ in worked else 0
        connection.execute(sa.update(ledger).where(held).values(paid=paid))
    for table in (assignees, remarks, reviews, bulk_tasks, assignments, tasks):
        mine = (table.c.run == run) & table.c.example_id.in_(ids)
        gone = connection.execute(sa.delete(table).where(mine)).rowcount
        out.add(Removed(_place(run, table), "rows", gone))


def _bury(
    journal: Journal,
    connection: sa.Connection,
    run: str,
    ids: list[str],
    redaction: Redaction,
    out: Certificate,
) -> None:
    """Give each example the dead letter by which it is never selected again."""
    mine = (dead_letters.c.run == run) & dead_letters.c.example_id.in_(ids)
    reason = sa.cast(dead_letters.c.reason, sa.Text)  # PostgreSQL does not compare JSON
    told = mine & (dead_letters.c.step != DELETED) & (reason != json.dumps(REASON))
    changed = connection.execute(sa.update(dead_letters).where(told).values(reason=REASON)).rowcount
    out.add(Removed(_place(run, dead_letters), "reasons", changed))
    what = REASON if redaction.whole else f"its label was {REASON}"
    rows = [
        {"run": run, "example_id": id_, "step": DELETED, "round": None, "reason": what}
        for id_ in ids
    ]
    connection.execute(journal.database.insert_new(dead_letters), rows)


def clean_tables(
    connection: sa.Connection, run: str | None, redaction: Redaction, out: Certificate
) -> None:
    """Clean all rows of `run` that no example owns, or for a person all rows; None: the rows that
    belong to no run. Rows of other examples with the same text are counted.
    """
    for table in TABLES.sorted_tables:
        if ("run" in table.c) != (run is not None) or table is runs or table.name in APART:
            continue
        if table is deletions and redaction.rename is None:
            continue  # it has ids and digests alone
        changed = others = 0
        for row in _scan(connection, table, run):
            if redaction.rename is None and _is_of_example(table, row):
                others += _has_text(row, redaction)
                continue
            values, left = _clean_row(table, row, redaction)
            others += left
            if values:
                key = sa.and_(*(column == row[column.name] for column in table.primary_key))
                connection.execute(sa.update(table).where(key).values(values))
                changed += 1
        out.add(Removed(_place(run, table), "rows with it", changed))
        if others:
            out.add(
                Remaining(
                    _place(run, table),
                    f"{others} rows of other examples or data have the same text or name",
                    "they are somebody else's",
                    "delete those examples or labels too, if they are meant",
                )
            )


def _is_of_example(table: sa.Table, row: sa.RowMapping) -> bool:
    id_ = row.get("example_id")
    return id_ is not None and not str(id_).startswith(JUDGED)


def _has_text(row: sa.RowMapping, redaction: Redaction) -> bool:
    texts = [text for value in row.values() for text in list_strings(value)]
    return any(needle in text for needle in redaction.needles for text in texts)


def _clean_row(
    table: sa.Table, row: sa.RowMapping, redaction: Redaction
) -> tuple[dict[str, Any], bool]:
    """Return the columns that change, and whether data of the row still has a person's name."""
    values: dict[str, Any] = {}
    left = False
    for column in table.c:
        value = row[column.name]
        if not isinstance(value, str | list | dict) or column.name in ("run", "digest"):
            continue
        if redaction.rename is None:
            new = redaction.clean_json(value) if isinstance(column.type, sa.JSON) else value
        else:
            new = redaction.rename_json(value)
            if column.name in SPOKEN or table.name in ("remarks", "guidelines"):
                new = change_strings(new, redaction.rename.words)
            left = left or any(redaction.rename.words(text) != text for text in list_strings(new))
        if new != value:
            values[column.name] = new
    return values, left


def _scan(connection: sa.Connection, table: sa.Table, run: str | None) -> Iterator[sa.RowMapping]:
    """Yield the rows of a table, a page at a time, in the order of the primary key."""
    keys = list(table.primary_key)
    last: tuple[Any, ...] | None = None
    while True:
        query = sa.select(table).order_by(*keys).limit(PAGE)
        if run is not None:
            query = query.where(table.c.run == run)
        if last is not None:
            query = query.where(sa.tuple_(*keys) > sa.tuple_(*map(sa.literal, last)))
        page = connection.execute(query).mappings().all()
        # The whole page before its first row: a key that changes does not move the place.
        last = tuple(page[-1][key.name] for key in keys) if page else None
        yield from page
        if len(page) < PAGE:
            return


def _place(run: str | None, table: sa.Table) -> str:
    return f"journal: {table.name}" + (f" of run {run}" if run else "")


def _pages(items: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), PAGE):
        yield items[start : start + PAGE]
