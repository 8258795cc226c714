"""Sections of the configuration for people who label."""

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from atgen_ray.config.data import Shot
from atgen_ray.config.notifications import NoticeConfig
from atgen_ray.core.schema import Changeable, Fraction, Section

DisplayKind = Literal["auto", "text", "markdown", "code", "json", "conversation"]


class GoldConfig(Section):
    """Gold items: inputs with known answers, mixed into everybody's tasks to tell how reliable each
    person is. They have no label and are not paid.
    """

    file: str | None = Field(
        None,
        description="File of gold items, .csv, .jsonl or .parquet, with the columns input (as "
        "annotators see it), text (a right answer; more rows of one input hold more of them), and "
        "draft and explanation where there are; null: none",
    )
    share: Fraction = Field(
        0.05, description="Share of everybody's tasks that are gold items, at random places"
    )
    quiz: NonNegativeInt = Field(
        0,
        description="Gold items that everybody answers before other tasks, each followed by the "
        "right answer and its explanation",
    )
    pass_mark: Changeable[Fraction] = Field(
        0.0, description="Share of the quiz that must be right, or its person gets no other task"
    )

    @model_validator(mode="after")
    def _has_items(self) -> "GoldConfig":
        """Check that there are items where a quiz needs them."""
        if self.file is None and self.quiz:
            raise ValueError(f"gold.quiz is {self.quiz}, expected 0 without gold.file")
        if self.pass_mark and not self.quiz:
            raise ValueError(f"gold.pass_mark is {self.pass_mark}, expected 0 without gold.quiz")
        return self


class HumanAnnotatorConfig(Section):
    """People, who label on the pages of the service."""

    type: Literal["human"] = Field(
        "human", description="human: people, on the pages of the service"
    )
    price_per_label: Changeable[NonNegativeFloat] = Field(
        0.0, description="Dollars paid for one person's answer to one example"
    )
    guidelines: str = Field(
        "",
        description="What a label is, in Markdown, shown beside every example: version 1; an admin "
        "may write later ones on the page of the guidelines while the run goes on",
    )
    examples: list[Shot] = Field(
        default_factory=list, description="Worked examples shown with the guidelines"
    )
    display: Changeable[DisplayKind] = Field(
        "auto",
        description="Form of the inputs: text as it is, markdown with formulas in LaTeX, code, "
        "json that folds, or a conversation with its turns; auto: guessed from each text",
    )
    mode: Literal["design", "rounds"] = Field(
        "design",
        description="design: all examples of the run at once, so that nobody waits for training; "
        "rounds: the next ones once the model has learnt from the last (what a router passes on "
        "always comes in rounds)",
    )
    overlap: PositiveInt = Field(1, description="People who label each example")
    overlap_at_most: PositiveInt | None = Field(
        None,
        description="People who label an example at most: another one is asked while the answers "
        "disagree, and an admin after the last; null: no more than overlap",
    )
    agreement: Changeable[Literal["auto", "exact", "edit", "chrf"]] = Field(
        "auto",
        description="How two answers are compared: exact: the same but for case, white space and "
        "final punctuation; edit: edit similarity; chrf: chrF, which looks at short pieces of "
        "words; auto: exact where no answer has more than three words, else chrf",
    )
    adjudicate_below: Changeable[Fraction | None] = Field(
        None,
        description="Two answers disagree where they are less similar; an admin decides where no "
        "more than half of the answers agree with the one nearest to all others, which otherwise "
        "is the label. null: 1 for exact, 0.3 for edit, 0.25 for chrf. Given without agreement it "
        "is an edit similarity",
    )
    gold: GoldConfig = Field(default_factory=GoldConfig)
    drafts: Literal["shown", "blind", "off", "experiment"] = Field(
        "shown",
        description="The model's own answer: shown to start from; blind: only after the first "
        "edit; off: never; experiment: shown for half of the examples, drawn at random, and never "
        "for the others, so that the page and the report tell what drafts do",
    )
    lease_minutes: Changeable[PositiveFloat] = Field(
        5.0,
        description="An example goes to others when its person did nothing for so long; the page "
        "renews the lease while somebody reads or types",
    )
    skips: Changeable[PositiveInt] = Field(
        1,
        description="An example that so many people skip goes to somebody else; one more, and an "
        "admin decides",
    )
    settle_seconds: Changeable[NonNegativeFloat] = Field(
        15.0,
        description="How long an answer rests before the run takes the label; it can be changed "
        "until the run trains on it",
    )
    notice: Changeable[NoticeConfig] = Field(default_factory=NoticeConfig)

    @model_validator(mode="before")
    @classmethod
    def _read_edit_similarity(cls, tree: Any) -> Any:
        """Read a threshold without a measure as earlier versions did."""
        if isinstance(tree, dict) and tree.get("adjudicate_below") is not None:
            return {"agreement": "edit"} | tree
        return tree

    @model_validator(mode="after")
    def _asks_more(self) -> "HumanAnnotatorConfig":
        """Check that more people may be asked only where answers can disagree."""
        if self.overlap_at_most is not None:
            if self.overlap < 2:
                raise ValueError(
                    f"overlap is {self.overlap}, expected 2 or more beside overlap_at_most: one "
                    f"answer cannot disagree"
                )
            if self.overlap_at_most < self.overlap:
                raise ValueError(
                    f"overlap_at_most is {self.overlap_at_most}, expected {self.overlap} (overlap) "
                    f"or more"
                )
        return self

    @property
    def most_answers(self) -> int:
        """Return how many people label an example at most, before an admin asks for more."""
        return self.overlap_at_most or self.overlap
