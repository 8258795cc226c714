"""The tasks of a run as a list, page by page, with the work of people on each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.assignees import list_assignable, list_people
from atgen_ray.annotation.human.lead.similarity import find_nearest
from atgen_ray.annotation.human.lead.task_filter import (
    FilterError,
    TaskFilter,
    begin_after,
    build_condition,
    list_fields,
    mark_place,
    order_by,
    placing,
)
from atgen_ray.annotation.human.task_store import TaskUnknownError, open_task_store
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import assignees, assignments, reviews, tasks

Row = dict[str, Any]
MANY = 500  # ids in one statement; databases limit its parameters
SAMPLE = 300  # tasks whose source columns are looked at


class TaskList:
    """The tasks of one run that a person may see: all of them, or with `only` those that this
    person holds or answered, without the work of others.
    """

    def __init__(self, journal: Journal, storage: str, run: str, only: str | None = None) -> None:
        """Raise TaskUnknownError or TaskConflictError where `run` has no people."""
        open_task_store(journal, run)
        self._journal = journal
        self._folder = RunFolder(storage, run)
        self._run = run
        self._only = only

    def read_page(self, filter: TaskFilter, after: str | None, limit: int) -> Row:
        """Return up to `limit` tasks (`tasks`) behind the place `after`, and the place of the page
        behind them (`next`), None at the end.

        Raises:
            FilterError: `after` is no place of this order.
            TaskConflictError: `filter.like` asks for embeddings that the run does not have.
        """
        with self._journal.database.reading() as connection:
            if filter.sort == "similarity":
                rows = self._rank(connection, filter, after, limit)
            else:
                columns, placed = order_by(filter.sort)
                query = sa.select(tasks).where(self.condition(connection, filter) & placed)
                if after is not None:
                    query = query.where(begin_after(filter.sort, after))
                query = query.order_by(*columns).limit(limit + 1)
                rows = [dict(row) for row in connection.execute(query).mappings()]
            page = rows[:limit]
            found = self._describe(connection, page)
        place = None
        if len(rows) > limit:
            last = page[-1]
            place = last["example_id"]
            if filter.sort != "similarity":
                place = mark_place(filter.sort, last)
        return {"tasks": found, "next": place}

    def count(self, filter: TaskFilter) -> dict[str, int]:
        """Return how many tasks `filter` means, by their state."""
        with self._journal.database.reading() as connection:
            query = (
                sa.select(tasks.c.state, sa.func.count())
                .where(self.condition(connection, filter))
                .group_by(tasks.c.state)
            )
            return {str(state): int(count) for state, count in connection.execute(query)}

    def read_task(self, example_id: str) -> Row:
        """Return one task with its history of reviews.

        Raises:
            TaskUnknownError: there is none that may be seen.
        """
        with self._journal.database.reading() as connection:
            here = build_condition(TaskFilter(), self._run, connection.dialect.name, self._only)
            query = sa.select(tasks).where(here & (tasks.c.example_id == example_id))
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise TaskUnknownError(f"run '{self._run}' has no task {example_id[:80]!r}")
            return self._describe(connection, [dict(row)])[0]

    def find_next(self, filter: TaskFilter, example_id: str) -> str | None:
        """Return the id of the task behind this one in the order of `filter`, None at the end.

        The task itself need not be one that the filter means: a review may have changed that.
        """
        with self._journal.database.reading() as connection:
            if filter.sort == "similarity":
                ranked = [id_ for id_, _ in self._find_nearest(connection, filter.like or "")]
                if example_id not in ranked:
                    return None
                rows = self._rank(connection, filter, example_id, 0)
                return rows[0]["example_id"] if rows else None
            here = (tasks.c.run == self._run) & (tasks.c.example_id == example_id)
            row = connection.execute(sa.select(tasks).where(here)).mappings().one()
            columns, placed = order_by(filter.sort)
            if not all(row[column.name] is not None for column in placing(filter.sort)):
                return None
            query = sa.select(tasks.c.example_id).where(self.condition(connection, filter) & placed)
            query = query.where(begin_after(filter.sort, mark_place(filter.sort, row)))
            return connection.execute(query.order_by(*columns).limit(1)).scalar_one_or_none()

    def export(self, filter: TaskFilter) -> Iterator[Row]:
        """Yield all tasks that `filter` means, in its order."""
        after: str | None = None
        while True:
            page = self.read_page(filter, after, MANY)
            yield from page["tasks"]
            after = page["next"]
            if after is None:
                return

    def read_choices(self) -> Row:
        """Return what there is to choose from: `people` who worked, people and groups that tasks
        can be kept for (`assignable`), `rounds`, `parts` of scores, and `fields` of the source rows
        with those of their values that come often.
        """
        with self._journal.database.reading() as connection:
            mine = tasks.c.run == self._run
            # PostgreSQL goes through an index for MIN and MAX, but not for DISTINCT.
            ends = sa.select(sa.func.min(tasks.c.round), sa.func.max(tasks.c.round)).where(mine)
            first, last = connection.execute(ends).one()
            looked = sa.select(tasks.c.fields, tasks.c.why).where(mine).limit(SAMPLE)
            rows = connection.execute(looked).all()
            parts = {name: None for row in rows for name in ((row.why or {}).get("parts") or {})}
            return {
                "people": list_people(connection, self._run),
                "assignable": list_assignable(connection, self._run),
                "rounds": [] if first is None else list(range(first, last + 1)),
                "parts": list(parts),
                "scored": any((row.why or {}).get("score") is not None for row in rows),
                "fields": list_fields([row.fields for row in rows]),
                "similar": self._has_vectors(),
            }

    def condition(self, connection: sa.Connection, filter: TaskFilter) -> sa.ColumnElement[bool]:
        """Return the condition for the tasks that `filter` means."""
        found = build_condition(filter, self._run, connection.dialect.name, self._only)
        if filter.like is not None:
            near = [id_ for id_, _ in self._find_nearest(connection, filter.like)]
            found &= tasks.c.example_id.in_(near)
        return found

    def _find_nearest(self, connection: sa.Connection, like: str) -> list[tuple[str, float]]:
        mine = tasks.c.run == self._run
        counted = sa.select(sa.func.count()).select_from(tasks).where(mine)
        count = int(connection.execute(counted).scalar_one())
        query = sa.select(tasks.c.example_id).where(mine)
        return find_nearest(
            self._folder, like, count, lambda: list(connection.execute(query).scalars())
        )

    def _has_vectors(self) -> bool:
        return bool(self._folder.exists("pool.parquet") and self._folder.list("embeddings"))

    def _rank(
        self, connection: sa.Connection, filter: TaskFilter, after: str | None, limit: int
    ) -> list[Row]:
        """Return tasks in the order of their similarity, one more than `limit` if there are."""
        ranked = dict(self._find_nearest(connection, filter.like or ""))
        ids = list(ranked)
        if after is not None:
            if after not in ranked:
                raise FilterError(
                    f"after is {after[:80]!r}, expected `next` of a page of the same order"
                )
            ids = ids[ids.index(after) + 1 :]
        here = build_condition(filter, self._run, connection.dialect.name, self._only)
        rows: list[Row] = []
        for begin in range(0, len(ids), MANY):
            chunk = ids[begin : begin + MANY]
            query = sa.select(tasks).where(here & tasks.c.example_id.in_(chunk))
            found = {row["example_id"]: row for row in connection.execute(query).mappings()}
            rows += [{**found[id_], "similarity": ranked[id_]} for id_ in chunk if id_ in found]
            if len(rows) > limit:
                break
        return rows[: limit + 1]

    def _describe(self, connection: sa.Connection, rows: Sequence[Row]) -> list[Row]:
        """Return tasks with the work of people, reviews and assignees."""
        ids = [row["example_id"] for row in rows]
        work = self._group(connection, assignments, ids, assignments.c.answered)
        judged = self._group(connection, reviews, ids, reviews.c.id)
        kept = self._group(connection, assignees, ids, assignees.c.who)
        own = self._only
        return [
            {
                "id": row["example_id"],
                "round": row["round"],
                "rank": row["rank"],
                "state": row["state"],
                "wanted": row["wanted"],
                "soon": row["priority"] < 0,
                "input": row["input"],
                # They may hold an answer that nobody has named as one.
                "fields": row["fields"] or {} if own is None else {},
                "why": row["why"],
                "score": row["score"],
                "agreement": row["agreement"] if own is None else None,
                "suggestion": row["suggestion"] if own is None else None,
                "decision": row["decision"] if own is None else None,
                "similarity": row.get("similarity"),
                "assigned": [each["who"] for each in kept[row["example_id"]]] if not own else [],
                "changed": row["changed"],
                "answers": [
                    _describe_answer(each, judged[row["example_id"]])
                    for each in work[row["example_id"]]
                    if own is None or each["annotator"] == own
                ],
                "reviews": [
                    _describe_review(each)
                    for each in judged[row["example_id"]]
                    if own is None or each["annotator"] == own
                ],
            }
            for row in rows
        ]

    def _group(
        self,
        connection: sa.Connection,
        table: sa.Table,
        ids: Sequence[str],
        order: sa.ColumnElement[Any],
    ) -> dict[str, list[sa.RowMapping]]:
        """Return the rows of another table about tasks, by task."""
        found: dict[str, list[sa.RowMapping]] = defaultdict(list)
        query = sa.select(table).where((table.c.run == self._run) & table.c.example_id.in_(ids))
        for row in connection.execute(query.order_by(order)).mappings():
            found[row["example_id"]].append(row)
        return found


def _describe_answer(work: sa.RowMapping, judged: Sequence[sa.RowMapping]) -> Row:
    """Return one person's work with the verdict on it, None where it has changed since."""
    present = [
        each["verdict"]
        for each in judged
        if each["annotator"] == work["annotator"]
        and (work["answered"] is None or work["answered"] <= each["time"])
    ]
    return {
        "annotator": work["annotator"],
        "state": work["state"],
        "text": work["text"],
        "note": work["note"],
        "seconds": work["seconds"],
        "answered": work["answered"],
        "review": present[-1] if present else None,
    }


def _describe_review(row: sa.RowMapping) -> Row:
    names = ("annotator", "verdict", "text", "comment", "by", "drawn", "time")
    return {name: row[name] for name in names}
