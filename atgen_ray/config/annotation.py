"""Sections of the configuration for annotators: who labels the query batch, and routers between
several. People and language models have files of their own, in `annotators`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    NonNegativeFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atgen_ray.config.annotators.language_models import LLMAnnotatorConfig, ModelAnnotatorConfig
from atgen_ray.config.annotators.paid_models import (
    AnthropicAnnotatorConfig,
    GeminiAnnotatorConfig,
    MistralAnnotatorConfig,
    OpenAIAnnotatorConfig,
)
from atgen_ray.config.annotators.people import HumanAnnotatorConfig
from atgen_ray.config.messages import check_values
from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, name_annotator
from atgen_ray.core.errors import nearest
from atgen_ray.core.schema import Changeable, Fraction, Section


class DatasetAnnotatorConfig(Section):
    """Known answers from the dataset: for benchmarks."""

    type: Literal["dataset"] = Field(
        "dataset", description="dataset: the answers in data.references"
    )
    price_per_label: Changeable[NonNegativeFloat] = Field(
        0.0, description="Dollars counted for a label, to draw cost curves"
    )


class PluginAnnotatorConfig(Section):
    """An annotator of an installed package, written as `type: NAME`."""

    type: Literal["plugin"] = Field(
        description="plugin: an annotator of an installed package, written as `type: NAME`; "
        "`atgen-ray plugins` lists them"
    )
    name: str = Field(description="Entry point of the group atgen_ray.annotators")
    price_per_label: Changeable[NonNegativeFloat] = Field(
        0.0, description="Dollars counted for a label"
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Parameters of the annotator, which its package defines"
    )

    @field_validator("name")
    @classmethod
    def _is_installed(cls, name: str) -> str:
        if name not in ANNOTATOR_PLUGINS:
            known = bool(len(ANNOTATOR_PLUGINS))
            hint = nearest(name, ANNOTATOR_PLUGINS) if known else "; none is installed"
            raise ValueError(
                f"is {name!r}, expected an entry point of the group atgen_ray.annotators{hint}"
            )
        return name

    @field_validator("parameters")
    @classmethod
    def _fit(cls, values: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
        if (name := info.data.get("name")) is not None:
            check_values(values, ANNOTATOR_PLUGINS[name].parameters, "")
        return values

    def read_parameters(self) -> BaseModel:
        """`parameters` as the model that the package defines."""
        return ANNOTATOR_PLUGINS[self.name].parameters.model_validate(self.parameters)


AnyLLMAnnotatorConfig = (
    OpenAIAnnotatorConfig
    | AnthropicAnnotatorConfig
    | MistralAnnotatorConfig
    | GeminiAnnotatorConfig
    | ModelAnnotatorConfig
)
Successor = (
    HumanAnnotatorConfig | DatasetAnnotatorConfig | AnyLLMAnnotatorConfig | PluginAnnotatorConfig
)
Kind = Literal["unsure", "sure", "disputed", "failed", "suspect"]


class RouteConfig(Section):
    """Which examples a stage of a router is asked for, by what the stages before it said."""

    confidence_below: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.7, description="A label is unsure when its annotator's votes agree less"
    )
    agreement_below: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.7,
        description="The labels of two or more stages are disputed when the mean F1 of their words "
        "is lower",
    )
    price_at_most: Changeable[NonNegativeFloat | None] = Field(
        None,
        description="Dollars that a label of this stage may cost at most, without a second answer; "
        "dearer examples are left to the next stages; null: any price",
    )
    kinds: list[Kind] | None = Field(
        None,
        description="Examples that the stage is asked for: unsure or sure of the last label, "
        "disputed by the stages, failed without a label, or suspect of commanding it; null: "
        "unsure, disputed, failed, and suspect where the stage is people",
    )
    share: Fraction = Field(
        0.0,
        description="Share of all examples, drawn at random, that the stage is asked for besides, "
        "so that `atgen-ray runs calibrate` can tell how good the other labels are",
    )


class StageConfig(Section):
    """One stage of a router."""

    annotator: Successor = Field(
        discriminator="type",
        description="Who labels; all but the last are language models. Or its type alone: human",
    )
    when: RouteConfig = Field(default_factory=RouteConfig)

    @field_validator("annotator", mode="before")
    @classmethod
    def _type_alone(cls, value: Any) -> Any:
        return name_annotator(value)


class RouterConfig(Section):
    """Stages of annotators, each of which labels what the stages before it leave to it; `first`,
    `then` and `when` are the short form of two stages.
    """

    type: Literal["router"] = Field(
        description="router: further annotators label what the first is not sure of"
    )
    first: AnyLLMAnnotatorConfig | None = Field(
        None, discriminator="type", description="The first annotator, with votes of 2 or more"
    )
    then: Successor | None = Field(
        None, discriminator="type", description="The second annotator, or its type alone: human"
    )
    when: RouteConfig = Field(default_factory=RouteConfig)
    stages: list[StageConfig] = Field(
        default_factory=list,
        description="Two or more annotators in the place of first, then and when",
    )

    @field_validator("first", "then", mode="before")
    @classmethod
    def _type_alone(cls, value: Any) -> Any:
        return name_annotator(value)

    @model_validator(mode="after")
    def _has_stages(self) -> "RouterConfig":
        """Check that there is one form, and that people and data sets come last."""
        short = {"first": self.first, "then": self.then}
        if self.stages:
            given = [name for name in (*short, "when") if name in self.model_fields_set]
            if given:
                raise ValueError(
                    f"annotator.stages is given beside annotator.{given[0]}, expected one of them"
                )
            if len(self.stages) < 2:
                raise ValueError("annotator.stages holds 1 stage, expected 2 or more")
            for key, annotator, _ in self.list_stages()[:-1]:
                if not isinstance(annotator, LLMAnnotatorConfig):
                    raise ValueError(
                        f"{key}.type is {annotator.type!r}, expected a language model: people, "
                        f"data sets and plug-ins come last"
                    )
        for name, given_annotator in short.items():
            if not self.stages and given_annotator is None:
                raise ValueError(
                    f"key 'annotator.{name}' is missing, expected an annotator, or "
                    f"annotator.stages in its place"
                )
        return self

    def list_stages(self) -> list[tuple[str, Successor, RouteConfig]]:
        """Return the annotators in the order in which they are asked, each with its key and what it
        is asked for; the first one is asked for everything.
        """
        if self.first is not None and self.then is not None:
            return [
                ("annotator.first", self.first, self.when),
                ("annotator.then", self.then, self.when),
            ]
        return [
            (f"annotator.stages.{place}.annotator", stage.annotator, stage.when)
            for place, stage in enumerate(self.stages)
        ]

    @property
    def weighs_confidence(self) -> bool:
        """Return whether a stage depends on the confidence of the first one."""
        later = [when.kinds for _, _, when in self.list_stages()[1:]]
        return any(kinds is None or "unsure" in kinds for kinds in later)


AnnotatorConfig = (
    DatasetAnnotatorConfig
    | HumanAnnotatorConfig
    | AnyLLMAnnotatorConfig
    | RouterConfig
    | PluginAnnotatorConfig
)


def list_annotators(config: AnnotatorConfig) -> list[tuple[str, Successor]]:
    """Return the annotators in `config` with their keys; a router has one for each stage."""
    if isinstance(config, RouterConfig):
        return [(key, annotator) for key, annotator, _ in config.list_stages()]
    return [("annotator", config)]


def list_stored(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the annotator in a run's configuration as the journal has it, and those of the stages
    of a router; it need not be valid any more.
    """
    annotator = config.get("annotator") or {}
    stages = [stage.get("annotator") for stage in annotator.get("stages") or []]
    parts = [annotator, annotator.get("first"), annotator.get("then"), *stages]
    return [part for part in parts if part]
