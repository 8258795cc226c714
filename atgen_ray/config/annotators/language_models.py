"""Sections of the configuration for annotating language models of all kinds, and for those on our
own workers.
"""

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
)

from atgen_ray.config.data import Shot
from atgen_ray.config.model import EngineConfig, ModelConfig
from atgen_ray.config.plugins import CHECKS
from atgen_ray.core.errors import nearest
from atgen_ray.core.json_schema import check_schema
from atgen_ray.core.schema import Changeable, Section


class ChecksConfig(Section):
    """Checks that an answer must pass to become a label. The question is asked once more for one
    that fails; then the example becomes a dead letter.
    """

    min_chars: NonNegativeInt = Field(1, description="Shortest label in characters")
    max_chars: PositiveInt | None = Field(
        None, description="Longest label in characters; null: any"
    )
    regex: str | None = Field(
        None,
        max_length=1000,
        description="Regular expression that the whole label matches, within a second",
    )
    refusals: bool = Field(True, description="Turn away answers such as `I cannot help with that`")
    custom: str | None = Field(
        None,
        description="Name of an installed entry point of the group atgen_ray.checks: (text, "
        "label) -> reason",
    )

    @field_validator("regex")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        import regex

        try:
            re.compile(pattern or "")
            regex.compile(pattern or "")
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"is {str(pattern)[:200]!r}, which is no regular expression: {error}"
            ) from None
        return pattern

    @field_validator("custom")
    @classmethod
    def _is_installed(cls, name: str | None) -> str | None:
        if name is not None and name not in CHECKS:
            hint = nearest(name, CHECKS) if len(CHECKS) else "; none is installed"
            raise ValueError(
                f"is {name!r}, expected an entry point of the group atgen_ray.checks{hint}"
            )
        return name


class LLMAnnotatorConfig(Section):
    """Settings of all annotating language models."""

    guidelines: str = Field(
        "", description="What a label is: the system turn, after prompt.system and the template"
    )
    examples: list[Shot] = Field(
        default_factory=list, description="Worked examples shown before every question"
    )
    shots: NonNegativeInt = Field(
        0,
        description="Labelled examples of earlier rounds shown before every question, of those "
        "that a person labelled or that passed a probe",
    )
    max_output_tokens: Changeable[PositiveInt] = Field(
        512, description="Longest answer in tokens, with its reasoning"
    )
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = Field(
        0.0,
        description="Temperature; null sends none. None is sent to models that are known to refuse "
        "it, as GPT-5, o3 and Claude from Opus 4.7 on, which draw at 1",
    )
    votes: PositiveInt = Field(
        1, description="Answers drawn for each example; their agreement is the confidence"
    )
    agreement: Literal["exact", "overlap"] = Field(
        "exact",
        description="exact: votes agree when they are the same text; overlap: by the F1 of their "
        "words",
    )
    output_schema: dict[str, JsonValue] | None = Field(
        None,
        description="JSON schema of the answer, enforced by the provider where it can; null: "
        "plain text",
    )
    output_field: str | None = Field(
        None, description="Key of the JSON answer that holds the label; null: all of it"
    )
    checks: ChecksConfig = Field(default_factory=ChecksConfig)
    repair: bool = Field(True, description="Ask once more where the answer fails the checks")
    probe: Literal["suspects", "all", "off"] = Field(
        "suspects",
        description="Ask the model for a known answer beside an example, which it fails to give "
        "where the example commands it: suspects: where a label looks commanded, and for those to "
        "be shown as `shots`; all: for every example, one more request each; off: never",
    )
    suspects: Literal["auto", "bury", "people", "keep"] = Field(
        "auto",
        description="An example that seems to have commanded its label: bury makes it a dead "
        "letter; people passes it to the people of the router; auto: people where there are some, "
        "else bury; keep: the label counts, but is never shown to a model",
    )

    @field_validator("output_schema")
    @classmethod
    def _is_schema(cls, schema: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if schema is not None:
            check_schema(schema)
        return schema


class ModelAnnotatorConfig(LLMAnnotatorConfig):
    """A language model on our own workers."""

    type: Literal["model"] = Field(description="model: a model on the workers of the run")
    model: ModelConfig
    engine: EngineConfig = Field(default_factory=EngineConfig)
    price_per_label: Changeable[NonNegativeFloat] = Field(
        0.0, description="Dollars counted for an answer, as of device time"
    )
