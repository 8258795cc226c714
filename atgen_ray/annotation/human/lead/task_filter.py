"""What the task list shows: a filter and an order, as conditions of SQL.

The filter is the query of the page's address, of the HTTP routes and of bulk actions, so that all
of them mean the same tasks.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from atgen_ray.annotation.human.gold import is_gold
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.tables import assignees, assignments, reviews, tasks

NOBODY = "nobody"  # of `assigned`: tasks that are for everybody
TaskState = Literal["open", "disputed", "answered", "dropped", "taken", "buried"]
Sort = Literal[
    "queue", "newest", "score", "-score", "agreement", "-agreement", "random", "similarity"
]
Name = Annotated[str, StringConstraints(max_length=200)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$")]

_FIELD = re.compile(r"(?P<name>.+?)\s*(?P<sign>!=|>=|<=|=|~)\s*(?P<value>.*)", re.DOTALL)
_ORDERS: dict[str, tuple[tuple[sa.Column[Any], ...], bool]] = {  # columns, and whether descending
    "queue": ((tasks.c.priority, tasks.c.round, tasks.c.rank), False),
    "newest": ((tasks.c.changed,), True),
    "score": ((tasks.c.score,), False),
    "-score": ((tasks.c.score,), True),
    "agreement": ((tasks.c.agreement,), False),
    "-agreement": ((tasks.c.agreement,), True),
    "random": ((), False),  # ids are hashes
}


class FilterError(UserError):
    """A filter, or a place in the list, cannot be read."""


class TaskFilter(BaseModel):
    """Which tasks of a run are meant. Every condition must hold; without any, all tasks are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: str = Field("", max_length=500, description="Text that is searched; case does not count")
    within: Literal["input", "answers", "remarks"] = Field(
        "input", description="Where `q` is searched: remarks are reasons of skips and flags"
    )
    state: list[TaskState] = Field(default_factory=list, description="One of these states")
    round: int | None = Field(None, ge=0, le=10**6, description="0: imported labels")
    person: Name | None = Field(None, description="Somebody who holds or answered the task")
    did: Literal["leased", "submitted", "skipped", "flagged"] | None = Field(
        None, description="What `person`, or anybody, did with the task"
    )
    assigned: Name | None = Field(
        None, description=f"Person, or @group, that the task is kept for; {NOBODY}: for everybody"
    )
    review: Literal["none", "accepted", "corrected", "returned"] | None = Field(
        None, description="Verdict on one of the present answers; none: no answer has any"
    )
    soon: bool | None = Field(None, description="Whether it was put at the head of the queue")
    score_from: float | None = Field(None, description="Least score of the selection")
    score_to: float | None = Field(None, description="Largest score of the selection")
    part: Name | None = Field(None, description="Part of the score, for the two bounds below")
    part_from: float | None = Field(None, description="Least value of `part`")
    part_to: float | None = Field(None, description="Largest value of `part`")
    agreement_from: float | None = Field(None, description="Least agreement of the answers")
    agreement_to: float | None = Field(None, description="Largest agreement of the answers")
    field: list[Annotated[str, StringConstraints(max_length=1000)]] = Field(
        default_factory=list,
        max_length=20,
        description="A column of the source row and its value: NAME=VALUE, != for another one, "
        "~ for a part of a text, >= or <= for numbers",
    )
    like: Id | None = Field(
        None, description="Example id: the tasks that are most similar to it by their embeddings"
    )
    sort: Sort = Field(
        "queue",
        description="queue: as they are labelled; newest: changed last; score, agreement: from "
        "the least, with - from the largest; random: by id, which is a hash; similarity: to `like`",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, given: Any) -> Any:
        # A form sends its empty fields too.
        if not isinstance(given, dict):
            return given
        kept = {
            name: [each for each in value if each != ""] if isinstance(value, list) else value
            for name, value in given.items()
        }
        return {name: value for name, value in kept.items() if value not in ("", [])}

    @model_validator(mode="after")
    def _check(self) -> "TaskFilter":
        if self.sort == "similarity" and self.like is None:
            raise ValueError("sort is similarity, expected an example id in like")
        if self.part is None and (self.part_from is not None or self.part_to is not None):
            raise ValueError("part_from and part_to bound a part of the score, expected part")
        for text in self.field:
            parse_field(text)
        return self


def parse_field(text: str) -> tuple[str, str, str]:
    """Return name, sign and value of a condition on a column of the source row.

    Raises:
        ValueError: it is none.
    """
    found = _FIELD.fullmatch(text)
    if found is None or '"' in found["name"]:
        raise ValueError(f"field is {text[:80]!r}, expected NAME=VALUE, or !=, ~, >= or <=")
    if found["sign"] in (">=", "<="):
        try:
            number = float(found["value"])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"field is {text[:80]!r}, expected a number after {found['sign']}")
    return found["name"], found["sign"], found["value"]


def build_condition(
    filter: TaskFilter, run: str, dialect: str, only: str | None = None
) -> sa.ColumnElement[bool]:
    """Return the condition for the tasks of `run` that `filter` means, `like` aside.

    Args:
        dialect: name of the database's dialect.
        only: a person whose tasks alone are shown: those that they hold or answered.
    """
    found = (tasks.c.run == run) & ~is_gold()
    if only is not None:
        _refuse_others(filter, only)
        found &= _has_work(assignments.c.annotator == only)
    if filter.state:
        found &= tasks.c.state.in_(filter.state)
    if filter.round is not None:
        found &= tasks.c.round == filter.round
    if filter.soon is not None:
        found &= tasks.c.priority < 0 if filter.soon else tasks.c.priority >= 0
    if filter.person is not None or filter.did is not None:
        work: sa.ColumnElement[bool] = sa.true()
        if filter.person is not None or only is not None:
            work &= assignments.c.annotator == (only or filter.person)
        if filter.did is not None:
            work &= assignments.c.state == filter.did
        found &= _has_work(work)
    if filter.assigned is not None:
        kept = _of_task(assignees)
        if filter.assigned == NOBODY:
            found &= ~sa.exists().where(kept)
        else:
            found &= sa.exists().where(kept & (assignees.c.who == filter.assigned))
    if filter.review is not None:
        found &= _is_reviewed(filter.review, only)
    found &= _bound(tasks.c.score, filter.score_from, filter.score_to)
    found &= _bound(tasks.c.agreement, filter.agreement_from, filter.agreement_to)
    if filter.part is not None:
        value = tasks.c.why[("parts", filter.part)].as_float()
        found &= value.is_not(None) & _bound(value, filter.part_from, filter.part_to)
    for text in filter.field:
        found &= _matches_field(*parse_field(text), dialect)
    if filter.q:
        found &= _searches(filter, dialect, only)
    return found


def placing(sort: str) -> list[sa.Column[Any]]:
    """Return the columns of an order that a task may lack; without them it has no place there."""
    return [column for column in _ORDERS[sort][0] if column.nullable]


def order_by(sort: str) -> tuple[list[sa.ColumnElement[Any]], sa.ColumnElement[bool]]:
    """Return the columns of an order, the id last, and the condition that a task has a place in
    it.
    """
    columns, down = _ORDERS[sort]
    placed = sa.and_(sa.true(), *(column.is_not(None) for column in placing(sort)))
    whole = [*columns, tasks.c.example_id]
    return [column.desc() if down else column.asc() for column in whole], placed


def begin_after(sort: str, after: str) -> sa.ColumnElement[bool]:
    """Return the condition for tasks behind the place that `mark_place` gave as `after`.

    Raises:
        FilterError: it is no such place of this order.
    """
    columns, down = _ORDERS[sort]
    whole = [*columns, tasks.c.example_id]
    try:
        values = json.loads(base64.urlsafe_b64decode(after.encode("ascii")))
    except (ValueError, binascii.Error):
        values = None
    kinds = [column.type.python_type for column in whole]
    if (
        not isinstance(values, list)
        or len(values) != len(whole)
        or not all(
            isinstance(value, (int, float) if kind is float else kind)
            for value, kind in zip(values, kinds, strict=True)
        )
    ):
        raise FilterError(f"after is {after[:80]!r}, expected `next` of a page of the same order")
    there = sa.tuple_(
        *(sa.literal(value, column.type) for value, column in zip(values, whole, strict=True))
    )
    here = sa.tuple_(*whole)
    return here < there if down else here > there


def mark_place(sort: str, task: Any) -> str:
    """Return the place of a row of `tasks` in an order, for addresses."""
    values = [task[column.name] for column in (*_ORDERS[sort][0], tasks.c.example_id)]
    return base64.urlsafe_b64encode(encode_json(values).encode()).decode()


def _of_task(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that a row of another table is about the task."""
    return (table.c.run == tasks.c.run) & (table.c.example_id == tasks.c.example_id)


def _has_work(work: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(_of_task(assignments) & work)


def _refuse_others(filter: TaskFilter, only: str) -> None:
    """Raise FilterError where a filter would tell a person about the work of others, or about
    columns of the source, which may hold answers.
    """
    others = {
        "person": filter.person not in (None, only),
        "assigned": filter.assigned is not None,
        "field": bool(filter.field),
        "agreement_from": filter.agreement_from is not None,
        "agreement_to": filter.agreement_to is not None,
        "sort": filter.sort in ("agreement", "-agreement"),
    }
    for name, used in others.items():
        if used:
            raise FilterError(f"{name} tells what only an admin may see")


def _is_reviewed(verdict: str, only: str | None) -> sa.ColumnElement[bool]:
    """Return the condition that an answer has that verdict, and was not changed since."""
    work = assignments.alias()
    changed = sa.exists().where(
        (work.c.run == reviews.c.run)
        & (work.c.example_id == reviews.c.example_id)
        & (work.c.annotator == reviews.c.annotator)
        & (work.c.answered > reviews.c.time)
    )
    present = _of_task(reviews) & ~changed
    if only is not None:
        present &= reviews.c.annotator == only
    if verdict == "none":
        return ~sa.exists().where(present)
    return sa.exists().where(present & (reviews.c.verdict == verdict))


def _bound(
    value: sa.ColumnElement[Any], least: float | None, largest: float | None
) -> sa.ColumnElement[bool]:
    found: sa.ColumnElement[bool] = sa.true()
    if least is not None:
        found &= value >= least
    if largest is not None:
        found &= value <= largest
    return found


def _matches_field(name: str, sign: str, value: str, dialect: str) -> sa.ColumnElement[bool]:
    column = tasks.c.fields[name]
    text = sa.cast(column.as_string(), sa.Text)
    if sign == "=":
        return text == value
    if sign == "!=":
        return text.is_distinct_from(value)
    if sign == "~":
        return _contains(text, value, dialect)
    # Only numbers are compared: PostgreSQL cannot read other texts as numbers.
    if dialect == "sqlite":
        kind = sa.func.json_type(tasks.c.fields, f'$."{name}"')
        number = sa.case((kind.in_(["integer", "real"]), column.as_float()))
    else:
        number = sa.case((sa.func.json_typeof(column) == "number", column.as_float()))
    return number >= float(value) if sign == ">=" else number <= float(value)


def _searches(filter: TaskFilter, dialect: str, only: str | None) -> sa.ColumnElement[bool]:
    if filter.within == "input":
        return _contains(sa.cast(tasks.c.input, sa.Text), filter.q, dialect, stored=True)
    column, states = (
        (assignments.c.text, ["submitted"])
        if filter.within == "answers"
        else (assignments.c.note, ["skipped", "flagged"])
    )
    found = _contains(sa.cast(column, sa.Text), filter.q, dialect, stored=True)
    work = assignments.c.state.in_(states) & found
    if only is not None:
        work &= assignments.c.annotator == only
    if filter.person is not None:
        work &= assignments.c.annotator == filter.person
    return _has_work(work)


def _contains(
    text: sa.ColumnElement[str], words: str, dialect: str, stored: bool = False
) -> sa.ColumnElement[bool]:
    """Return the condition that `text` contains `words` in any case; a `stored` text is in JSON."""
    # LIKE of SQLite ignores the case of ASCII only.
    forms = [words]
    if dialect == "sqlite" and not words.isascii():
        forms += [words.lower(), words.upper(), words.title()]
    patterns = [_pattern(encode_json(form)[1:-1] if stored else form) for form in forms]
    # ILIKE on SQLite would make a lower copy of every text.
    compare = text.like if dialect == "sqlite" else text.ilike
    return sa.or_(*(compare(pattern, escape="|") for pattern in dict.fromkeys(patterns)))


def _pattern(words: str) -> str:
    for special in "|%_":
        words = words.replace(special, f"|{special}")
    return f"%{words}%"


def list_fields(rows: Sequence[Any]) -> dict[str, list[str]]:
    """Return the columns that source rows have, and the few values of each that comes often."""
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in (row or {}).items():
            values.setdefault(name, {})[str(value)] = None
    return {name: sorted(found) if len(found) <= 20 else [] for name, found in values.items()}
