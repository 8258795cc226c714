"""Requests and responses of the query endpoint."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, JsonValue, model_validator

from atgen_ray.serving.schemas.body import Body


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "holds half of a surrogate pair, expected text that UTF-8 can hold"
        ) from None
    return text


Text = Annotated[str, Field(max_length=1_000_000), AfterValidator(_encodable)]
Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_encodable)]
Word = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_encodable)]


class ExampleBody(Body):
    """An example that may be picked."""

    id: Id
    text: Text


class LabeledBody(ExampleBody):
    """An example that is labelled already."""

    label: Text | None = Field(None, description="The answer, for strategies that look at labels")


class DatasetBody(Body):
    """A dataset that the service reads itself; ids of its examples are hashes of text and row."""

    path: Word = Field(description="A file below one of the service's data_roots, or a hub id")
    format: Literal["auto", "jsonl", "csv", "parquet", "saved", "huggingface"] = "auto"
    split: Word = "train"
    input: Word = Field("input", description="Column of the text; dots reach into nested columns")
    limit: Annotated[int, Field(ge=1, le=2**31)] | None = None
    embedding: Word | None = Field(
        None,
        description="Column with a vector of each example, in place of the service's encoder; of "
        "one Parquet file",
    )


class SelectBody(Body):
    """Request for the examples worth labelling, best first."""

    examples: list[ExampleBody] | None = None
    dataset: DatasetBody | None = None
    labeled: list[LabeledBody] = Field(default_factory=list)
    target: list[Text] = Field(
        default_factory=list,
        description="Prompts of the use in mind, for strategies that pick for a target",
    )
    strategy: Word = Field(
        "huds", description="`atgen-ray config explain selection.strategy` lists them"
    )
    parameters: dict[Word, JsonValue] = Field(default_factory=dict)
    count: Annotated[int, Field(ge=1, le=2**31)] = 10
    model: Word | None = Field(
        None, description="<base> or <base>:<run>-<round>, for strategies that look at outputs"
    )
    seed: Annotated[int, Field(ge=0, le=2**62)] = 0
    background: bool | None = Field(
        None, description="true: always run as a job; a large request always is a job"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "SelectBody":
        if (self.examples is None) == (self.dataset is None):
            raise ValueError("expected either examples or dataset")
        if self.examples is not None:
            ids = {example.id for example in self.examples}
            if not ids:
                raise ValueError("examples are empty, expected at least one")
            if len(ids) != len(self.examples):
                raise ValueError("examples hold an id twice")
        labeled = {example.id for example in self.labeled}
        if len(labeled) != len(self.labeled):
            raise ValueError("labeled holds an id twice")
        return self


class PickBody(BaseModel):
    """One selected example; an example picked earlier has a larger `score`."""

    id: str
    rank: int
    score: float | None
    parts: dict[str, float | None]
    row: int | None = Field(None, description="Row in the dataset, from 0")


class SelectionBody(BaseModel):
    """The query batch, or the job that computes it."""

    status: Literal["finished", "running", "failed"]
    selected: list[PickBody] | None = None
    job: str | None = Field(None, description="Ask GET /api/v1/select/{job} for the result")
    message: str | None = None


def pick_rows(picks: Any) -> list[dict[str, Any]]:
    """Return a table of SELECTION_SCHEMA as rows of plain data."""
    return [row | {"parts": dict(row["parts"])} for row in picks.to_pylist()]
