"""Requests and responses of the routes of the task list."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from atgen_ray.annotation.human.lead.bulk import Verb
from atgen_ray.annotation.human.lead.reviews import Verdict
from atgen_ray.annotation.human.lead.task_filter import TaskFilter
from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.schemas.tasks import LONGEST, Person, TaskId

PAGE = 50  # tasks of a page
MOST_IDS = 10_000  # named one by one


class TaskPage(TaskFilter):
    """A filter, and a page of what it means."""

    after: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        None, description="`next` of the page before"
    )
    limit: int = Field(PAGE, ge=1, le=500, description="Tasks at most")


class TaskExport(TaskFilter):
    """A filter, and the form of the file."""

    format: Literal["jsonl", "csv"] = Field(
        "jsonl", description="jsonl: a task a line with its answers; csv: an answer a row"
    )


class BulkBody(Body):
    """An action on many tasks: those named, or all that a filter means."""

    verb: Verb = Field(
        description="next, last: to the head or the end of the queue; usual: where they were; "
        "assign: keep them for `who`; drop: no label; reopen: to be answered anew"
    )
    ids: list[TaskId] | None = Field(None, min_length=1, max_length=MOST_IDS)
    filter: TaskFilter | None = Field(None, description="As the query of the list; {}: all tasks")
    who: list[Person] = Field(
        default_factory=list,
        max_length=100,
        description="With assign: people, and groups with @ before their names; empty: everybody",
    )
    reason: str = Field("", max_length=4_000, description="With drop and reopen; annotators see it")
    expected: int | None = Field(
        None, ge=0, description="How many tasks are meant; with another number nothing is done"
    )

    @model_validator(mode="after")
    def _name_tasks(self) -> "BulkBody":
        if (self.ids is None) == (self.filter is None):
            raise ValueError("expected either ids or filter")
        return self


class BulkDoneBody(BaseModel):
    """What an action changed."""

    number: int = Field(description="Of the action, for its undoing")
    tasks: int = Field(description="Tasks that it changed")


class UndoneBody(BaseModel):
    """What the undoing of an action changed."""

    number: int
    tasks: int = Field(description="Tasks that are as they were before")
    changed: int = Field(description="Tasks that others have changed since, which stay")


class ReviewBody(Body):
    """A verdict on one person's answer."""

    annotator: Person = Field(description="Whose answer it is")
    verdict: Verdict = Field(
        description="accepted; corrected: `text` is the label; returned: its annotator answers "
        "anew and sees the comment"
    )
    text: str = Field("", max_length=LONGEST, description="The correct label")
    comment: str = Field("", max_length=4_000)
    drawn: bool = Field(
        False,
        description="Whether chance chose the answer, so that it counts in shares with intervals",
    )


class ListedTask(BaseModel):
    """A task in the list. An annotator sees no work of others."""

    id: str
    round: int
    rank: int
    state: str
    wanted: int = Field(description="Answers by different people that it needs")
    soon: bool = Field(description="It was put at the head of the queue")
    input: str
    fields: dict[str, Any] = Field(description="Short columns of its source row")
    why: dict[str, Any] | None
    score: float | None = Field(description="Of the selection")
    agreement: float | None = Field(description="Of its answers")
    suggestion: dict[str, Any] | None
    decision: dict[str, Any] | None
    similarity: float | None = Field(description="To the example of `like`, a cosine")
    assigned: list[str] = Field(description="For whom it is kept; empty: for everybody")
    changed: float
    answers: list[dict[str, Any]]
    reviews: list[dict[str, Any]]


class ListedTasks(BaseModel):
    """A page of the task list."""

    tasks: list[ListedTask]
    next: str | None = Field(description="`after` of the next page; null: this is the last")


class CountBody(BaseModel):
    """How many tasks a filter means."""

    count: int
    states: dict[str, int]
