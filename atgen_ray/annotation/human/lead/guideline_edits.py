"""What a lead does with guidelines: new versions, remarks of annotators that become rules, and
labels of earlier versions that are sent back.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.guidelines import (
    FIRST,
    Guidelines,
    enter_guidelines,
    find_guidelines,
    read_first,
)
from atgen_ray.annotation.human.revision import reopen_tasks
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskUnknownError,
    open_task_store,
)
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, remarks, tasks

LONGEST = 50_000  # characters of guidelines
MOST = 10_000  # tasks that are sent back in one action
MOST_REMARKS = 20  # of a person about one example


def edit_guidelines(
    journal: Journal, run: str, by: str, text: str, reason: str, based_on: int
) -> int:
    """Make `text` the newest version and return its number. The same text again changes nothing.

    Raises:
        TaskConflictError: the newest version is not `based_on`, so that a change of somebody else
            would be lost.
    """
    first = _read_first(journal, run)
    with journal.run_transaction(run) as connection:
        now = journal.database.clock(connection)
        newest = find_guidelines(connection, run) or first
        if text == newest.text:
            return newest.version
        return _enter(connection, run, newest, Guidelines(0, text, reason, by, now), based_on)


def remark(journal: Journal, run: str, example_id: str, by: str, text: str) -> int:
    """Keep what a person says about an example; return the id of the remark. The same remark twice
    is one.

    Raises:
        TaskConflictError: the person has made `MOST_REMARKS` about the example already.
    """
    store = open_task_store(journal, run)
    with journal.run_transaction(run) as connection:
        store.task(connection, example_id)
        now = journal.database.clock(connection)
        mine = (remarks.c.run == run) & (remarks.c.example_id == example_id)
        own = sa.select(remarks.c.id, remarks.c.text).where(mine & (remarks.c.annotator == by))
        earlier = connection.execute(own).all()
        for row in earlier:
            if row.text == text:
                return int(row.id)
        if len(earlier) >= MOST_REMARKS:
            raise TaskConflictError(
                f"you have made {MOST_REMARKS} remarks about task '{example_id}', which are enough"
            )
        values = {"run": run, "example_id": example_id, "annotator": by, "text": text, "time": now}
        entered = sa.insert(remarks).values(values).returning(remarks.c.id)
        return int(connection.execute(entered).scalar_one())


def list_remarks(
    journal: Journal, run: str, waiting: bool = True, limit: int = 100
) -> list[dict[str, Any]]:
    """Return remarks with the input that they are about: those that wait for the lead, the oldest
    first, or those that were dealt with, the latest first.
    """
    joined = (tasks.c.run == remarks.c.run) & (tasks.c.example_id == remarks.c.example_id)
    query = sa.select(remarks, tasks.c.input).join(tasks, joined).where(remarks.c.run == run)
    if waiting:
        query = query.where(remarks.c.closed.is_(None)).order_by(remarks.c.id)
    else:
        query = query.where(remarks.c.closed.is_not(None)).order_by(remarks.c.closed.desc())
    with journal.database.reading() as connection:
        return [dict(row) for row in connection.execute(query.limit(limit)).mappings()]


def count_remarks(journal: Journal, run: str) -> int:
    """Return how many remarks wait for the lead."""
    mine = (remarks.c.run == run) & remarks.c.closed.is_(None)
    with journal.database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(remarks).where(mine)
        return int(connection.execute(query).scalar_one())


def adopt_remark(
    journal: Journal, run: str, remark_id: int, by: str, rule: str, based_on: int
) -> int:
    """Make `rule` the last line of a new version of the guidelines, and close the remark; return
    the version. A remark that was adopted before changes nothing.
    """
    first = _read_first(journal, run)
    with journal.run_transaction(run) as connection:
        now = journal.database.clock(connection)
        found = _remark(connection, run, remark_id)
        if found["version"] is not None:
            return int(found["version"])
        newest = find_guidelines(connection, run) or first
        line = " ".join(rule.split())
        text = f"{newest.text.rstrip()}\n{_gap(newest.text)}- {line}\n".lstrip()
        reason = f"A remark by {found['annotator']} on {found['example_id']}"
        new = Guidelines(0, text, reason, by, now)
        version = _enter(connection, run, newest, new, based_on)
        _close(connection, remark_id, now, version)
    return version


def close_remark(journal: Journal, run: str, remark_id: int) -> None:
    """Take a remark off the list without a rule."""
    with journal.run_transaction(run) as connection:
        found = _remark(connection, run, remark_id)
        if found["closed"] is None:
            _close(connection, remark_id, journal.database.clock(connection), None)


def count_outdated(journal: Journal, run: str, version: int) -> int:
    """Return how many tasks have an answer that was given with guidelines before `version`."""
    query = sa.select(sa.func.count(sa.distinct(assignments.c.example_id)))
    with journal.database.reading() as connection:
        return int(connection.execute(query.where(_outdated(run, version))).scalar_one())


def list_outdated(
    journal: Journal, run: str, version: int, search: str = "", limit: int = 50
) -> list[dict[str, Any]]:
    """Return answers that were given with guidelines before `version`, in the order of their tasks:
    id, input, annotator, text, guidelines.

    Args:
        search: leaves out answers that do not contain it, in any case.
    """
    joined = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    names = ("annotator", "text", "guidelines")
    query = sa.select(
        tasks.c.example_id.label("id"),
        tasks.c.input,
        tasks.c.state,
        *(assignments.c[name] for name in names),
    )
    query = query.join(tasks, joined).where(_outdated(run, version, search))
    query = query.order_by(assignments.c.example_id, assignments.c.annotator).limit(limit)
    with journal.database.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def send_back(
    journal: Journal,
    run: str,
    version: int,
    by: str,
    reason: str,
    search: str = "",
    example_ids: Sequence[str] | None = None,
) -> int:
    """Open the tasks again whose answers were given with guidelines before `version`; return how
    many.

    Args:
        search: only those with an answer that contains it.
        example_ids: only these.

    Raises:
        UserError: there are more than `MOST`.
    """
    query = sa.select(assignments.c.example_id).where(_outdated(run, version, search)).distinct()
    with journal.database.reading() as connection:
        found = list(connection.execute(query.limit(MOST + 1)).scalars())
    if len(found) > MOST:
        raise UserError(f"more than {MOST:,} tasks would be sent back, expected a narrower search")
    if example_ids is not None:
        wanted = set(example_ids)
        found = [id_ for id_ in found if id_ in wanted]
    return reopen_tasks(journal, run, found, by, reason) if found else 0


def _outdated(run: str, version: int, search: str = "") -> sa.ColumnElement[bool]:
    """Return the condition for answers that were given before `version` of the guidelines."""
    had = sa.func.coalesce(assignments.c.guidelines, FIRST)
    old = (assignments.c.run == run) & (assignments.c.state == "submitted") & (had < version)
    if not search:
        return old
    # Texts are stored as JSON, so that the needle is written as it is in them.
    needle = encode_json(search)[1:-1]
    text = sa.cast(assignments.c.text, sa.Text)
    lower = sa.func.lower(text)  # of ASCII alone in SQLite
    return old & (
        text.contains(needle, autoescape=True) | lower.contains(needle.lower(), autoescape=True)
    )


def _read_first(journal: Journal, run: str) -> Guidelines:
    config = open_task_store(journal, run).config
    return Guidelines(FIRST, read_first(config.guidelines, journal.run(run).config))


def _enter(
    connection: sa.Connection, run: str, newest: Guidelines, new: Guidelines, based_on: int
) -> int:
    version = newest.version
    if version != based_on:
        raise TaskConflictError(
            f"the guidelines are at version {version} by now, expected a change of that one and "
            f"not of version {based_on}"
        )
    if len(new.text) > LONGEST:
        raise UserError(
            f"the guidelines have {len(new.text):,} characters, expected at most {LONGEST:,}"
        )
    made = Guidelines(version + 1, new.text, new.reason, new.author, new.time)
    enter_guidelines(connection, run, made)
    return made.version


def _gap(text: str) -> str:
    """Return an empty line where the last line of `text` is no item of a list."""
    lines = text.rstrip().splitlines()
    return "" if lines and lines[-1].lstrip().startswith("- ") else "\n"


def _remark(connection: sa.Connection, run: str, remark_id: int) -> sa.RowMapping:
    query = sa.select(remarks).where((remarks.c.run == run) & (remarks.c.id == remark_id))
    found = connection.execute(query).mappings().one_or_none()
    if found is None:
        raise TaskUnknownError(f"run '{run}' has no remark {remark_id}")
    return found


def _close(connection: sa.Connection, remark_id: int, now: float, version: int | None) -> None:
    here = sa.update(remarks).where(remarks.c.id == remark_id)
    connection.execute(here.values(closed=now, version=version))
