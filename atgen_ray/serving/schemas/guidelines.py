"""Requests and responses of the routes of guidelines and remarks."""

from pydantic import BaseModel, Field

from atgen_ray.annotation.human.lead.guideline_edits import LONGEST
from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.schemas.tasks import Note, TaskId


class GuidelinesBody(BaseModel):
    """One version of the guidelines of a run."""

    version: int = Field(description="1 is the configuration's")
    text: str = Field(description="Markdown")
    reason: str = Field(description="What changed")
    author: str | None
    time: float | None = Field(description="Seconds since 1970")


class EditBody(Body):
    """A new version."""

    text: str = Field(max_length=LONGEST, description="Markdown")
    reason: str = Field("", max_length=4_000, description="What changed, in a line")
    based_on: int = Field(ge=1, le=2**31 - 1, description="Version that was changed")


class VersionBody(BaseModel):
    """Number of a version."""

    version: int


class RemarkBody(Body):
    """What an annotator tells the lead about an example."""

    text: Note


class RemarkedBody(BaseModel):
    """Id of a remark."""

    id: int


class RuleBody(Body):
    """A line of the guidelines that a remark becomes."""

    rule: Note
    based_on: int = Field(ge=1, le=2**31 - 1, description="Version that the line is added to")


class SendBackBody(Body):
    """Answers of earlier versions to give again."""

    reason: str = Field("", max_length=4_000, description="What their annotators are told")
    search: str = Field(
        "", max_length=400, description="Only tasks with an answer that contains this"
    )
    ids: list[TaskId] | None = Field(
        None, max_length=10_000, description="Only these examples; null: all of them"
    )


class SentBackBody(BaseModel):
    """Number of tasks that were sent back."""

    tasks: int
