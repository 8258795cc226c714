"""Requests and responses of the routes of annotation tasks."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from atgen_ray.serving.schemas.body import Body

LONGEST = 100_000  # characters of a label
TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST, pattern=r"\S")]
Note = Annotated[str, StringConstraints(min_length=1, max_length=4_000, pattern=r"\S")]
Person = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Seconds = Annotated[float, Field(ge=0.0, le=86_400.0)]


class _Body(Body):
    model_config = ConfigDict(allow_inf_nan=False)


class LeaseBody(_Body):
    """Request for tasks."""

    count: int = Field(1, ge=1, le=20, description="Tasks at most")
    besides: list[TaskId] = Field(
        default_factory=list, max_length=200, description="Tasks that the caller has already"
    )
    ahead: int = Field(
        0,
        ge=0,
        le=19,
        description="How many of them, the last ones, are only prepared: kept for two minutes, and "
        "given to somebody who would have none",
    )
    hand: TaskId | None = Field(
        None, description="The task that the caller works on: it is the first, if it is held"
    )


class ReleaseBody(_Body):
    """Tasks that the caller leaves."""

    ids: list[TaskId] = Field(max_length=50)


class DraftBody(_Body):
    """Draft of a label."""

    text: str = Field(max_length=LONGEST)
    revision: int = Field(
        0, ge=0, le=2**53, description="Counts up; an older draft never replaces a later one"
    )


class SubmitBody(_Body):
    """A label."""

    text: Text
    seconds: Seconds | None = Field(None, description="How long the person worked on it")
    guidelines: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Version that the person had; null: the newest"
    )


class SkipBody(_Body):
    """Reason for leaving a task to somebody else, and then to an admin."""

    reason: Note


class FlagBody(_Body):
    """Comment on an example for an admin."""

    comment: Note


class DecisionBody(_Body):
    """Decision of an admin on a task that is in dispute or was skipped."""

    verdict: Literal["label", "drop", "reopen"] = Field(
        description="label: `text` is the label; drop: no label; reopen: back to those who "
        "flagged or skipped it"
    )
    text: str = Field("", max_length=LONGEST, description="The label")
    comment: str = Field("", max_length=4_000)


class CorrectionBody(_Body):
    """An admin's correction of a label."""

    text: Text
    reason: str = Field("", max_length=4_000, description="Why; it stays in the history")


class AcceptBody(_Body):
    """Threshold from which on answers in dispute are accepted."""

    at_least: float = Field(
        ge=0.0, le=1.0, description="Similarity that more than half of the answers have"
    )


class QuizAnswerBody(BaseModel):
    """An answer to a question of the quiz, and the right ones."""

    id: str
    input: str
    text: str | None
    agrees: bool = Field(description="The answer agrees with one of `texts`")
    texts: list[str] = Field(description="Right answers")
    explanation: str | None


class QuizBody(BaseModel):
    """How a person stands in the quiz that comes before other tasks."""

    total: int = Field(description="Questions; 0 where there is no quiz")
    answered: int
    right: int
    passed: bool | None = Field(description="null before the end; false: no other task follows")
    answers: list[QuizAnswerBody]


class AcceptedBody(BaseModel):
    """Tasks that were labelled together."""

    ids: list[str]


class BroughtBody(_Body):
    """An existing label."""

    id: TaskId | None = Field(
        None, description="Example id; without it the example is found by its input"
    )
    input: str | None = Field(
        None, max_length=LONGEST, description="The user turn, as an export has it"
    )
    text: Text
    annotator: Person = "imported"


class ImportBody(_Body):
    """Existing labels to import."""

    labels: list[BroughtBody] = Field(min_length=1, max_length=10_000)


class TaskBody(BaseModel):
    """A task as its annotator sees it."""

    id: str
    round: int
    input: str
    why: dict[str, Any] | None = Field(
        description="Strategy, rank, score and parts of the score that picked it"
    )
    suggestion: dict[str, Any] | None = Field(
        description="The model's answer: text, source and round of training"
    )
    blind: bool = Field(description="The suggestion is shown only after the first draft was saved")
    state: Literal["open", "leased", "submitted", "skipped", "flagged"] = Field(
        description="The caller's work on it; open: only looked at"
    )
    closed: bool = Field(description="The answer can no longer be changed")
    draft: str | None
    text: str | None
    note: str | None = Field(
        description="Why it was skipped or flagged; of a leased task, why it was sent back"
    )
    sent_back_by: str | None = Field(None, description="Who sent the caller's answer back")
    revision: int
    lease_seconds: float = Field(description="Seconds until others may lease the task")


class TasksBody(BaseModel):
    """Tasks, and the progress of the run."""

    tasks: list[TaskBody]
    progress: dict[str, Any]


class TasksOnly(BaseModel):
    """Tasks that the caller looks at."""

    tasks: list[TaskBody]


class ReleasedBody(BaseModel):
    """Result of leaving tasks."""

    released: int


class StateBody(BaseModel):
    """State of a task."""

    id: str
    state: str


class ImportedBody(BaseModel):
    """Result of an import."""

    imported: int
    known: int
    refused: list[dict[str, Any]] = Field(
        description="Place in the list or the file from 0, and the reason"
    )
    unknown: int = Field(0, description="Refused: their examples are not in the pool")
    conflicting: int = Field(0, description="Refused: labelled already, or otherwise by the person")


class LabelFileBody(ImportedBody):
    """How a file of labels is read, and what became of them or would become of them."""

    format: str = Field(description="argilla, label-studio, prodigy or rows")
    columns: list[str] = Field(description="Columns, or the tool's fields, that may be mapped")
    questions: list[str] = Field(description="What may be the label")
    mapping: dict[str, str] = Field(description="Columns by input, text, annotator, id, seconds")
    rows: list[dict[str, Any]] = Field(description="The first rows: input, and answers")
    labels: int
    passed: int = Field(description="Drafts, skips, rejections, and rows without a text")
    people: dict[str, int] = Field(description="Labels by annotator, the most first")
