"""Sections of the configuration for rivals: cheap alternatives to fine-tuning, which are scored as
the tuned model is.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from atgen_ray.config.annotation import AnyLLMAnnotatorConfig
from atgen_ray.core.errors import nearest
from atgen_ray.core.hashing import digest
from atgen_ray.core.schema import Section


class ZeroShotRival(Section):
    """The model before tuning, as evaluation.zero_shot."""

    type: Literal["zero_shot"] = Field("zero_shot", description="zero_shot: no tuning")

    @property
    def key(self) -> str:
        """Return the name of the rival in steps and paths."""
        return "zero_shot"


class NearestRival(Section):
    """The answer of the label whose embedding is nearest, copied."""

    type: Literal["knn"] = Field("knn", description="knn: copy the nearest label")

    @property
    def key(self) -> str:
        """Return the name of the rival in steps and paths."""
        return "knn"


class FewShotRival(Section):
    """The model before tuning, shown the labels nearest to each question."""

    type: Literal["few_shot"] = Field("few_shot", description="few_shot: labels in the prompt")
    k: PositiveInt = Field(
        5, description="Labels shown; those that model.max_prompt_tokens has no room for are not"
    )

    @property
    def key(self) -> str:
        """Return the name of the rival in steps and paths."""
        return f"few_shot-{self.k}"


class PromptRival(Section):
    """The model before tuning with the best of some instructions, by held-out labels."""

    type: Literal["prompt"] = Field("prompt", description="prompt: a searched instruction")
    instructions: list[str] = Field(default_factory=list, description="Instructions to try")
    proposals: NonNegativeInt = Field(4, description="Instructions that the model writes itself")
    shown: PositiveInt = Field(4, description="Labels that a proposal is written from")
    held_out: PositiveInt = Field(
        32, description="Labels that choose, half of all at most; never the test set"
    )

    @property
    def key(self) -> str:
        """Return the name of the rival in steps and paths."""
        return f"prompt-{digest(self.model_dump_json(), size=4)}"

    @model_validator(mode="after")
    def _has_a_choice(self) -> "PromptRival":
        if not self.instructions and not self.proposals:
            raise ValueError(
                "evaluation.rivals holds prompt with no instructions and 0 proposals, expected "
                "one or more to try"
            )
        return self


class LargerRival(Section):
    """Another model without any labels."""

    type: Literal["larger"] = Field("larger", description="larger: another model, zero-shot")
    model: AnyLLMAnnotatorConfig = Field(
        discriminator="type", description="Which model, with keys as annotator"
    )

    @property
    def key(self) -> str:
        """Return the name of the rival in steps and paths: another prompt is another rival."""
        kept = {"type", "model", "guidelines", "examples", "reasoning_effort", "temperature"}
        return f"larger-{digest(self.model.model_dump_json(include=kept), size=4)}"

    @property
    def name(self) -> str:
        """Return the name of the model."""
        model: Any = self.model.model
        return model if isinstance(model, str) else str(model.id)


Rival = ZeroShotRival | NearestRival | FewShotRival | PromptRival | LargerRival
RivalConfig = Annotated[Rival, Field(discriminator="type")]
TYPES = tuple(each.model_fields["type"].default for each in get_args(Rival))


def name_rivals(value: Any) -> Any:
    """Return the list `evaluation.rivals` with each type that stands alone as a section.

    Raises:
        ValueError: a type is unknown.
    """
    if not isinstance(value, list):
        return value
    tree = [{"type": each} if isinstance(each, str) else each for each in value]
    for each in tree:
        kind = each.get("type") if isinstance(each, dict) else None
        if isinstance(kind, str) and kind not in TYPES:
            raise ValueError(
                f"holds {kind!r}, expected one of {', '.join(TYPES)}{nearest(kind, TYPES)}"
            )
        if kind == "larger" and "model" not in each:
            raise ValueError(
                "holds 'larger' alone, expected its model beside it: {type: larger, model: {type: "
                "openai, model: NAME}}"
            )
    return tree


def check_rivals(rivals: Sequence[Rival]) -> None:
    """Raise ValueError where two rivals are the same."""
    keys = [rival.key for rival in rivals]
    for place, rival in enumerate(rivals):
        if rival.key in keys[:place]:
            raise ValueError(f"evaluation.rivals holds {rival.type!r} twice, expected it once")
