"""Sections of the configuration for evaluation and stopping: how the adapter is judged and when the
run ends.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from atgen_ray.config.annotation import AnyLLMAnnotatorConfig
from atgen_ray.config.rivals import (
    FewShotRival,
    LargerRival,
    NearestRival,
    RivalConfig,
    ZeroShotRival,
    check_rivals,
    name_rivals,
)
from atgen_ray.core.errors import nearest
from atgen_ray.core.schema import Changeable, Fraction, Section
from atgen_ray.evaluation import METRICS
from atgen_ray.evaluation.model_settings import MetricModelsConfig


class AuditConfig(Section):
    """A sample of the pool that is labelled to measure and is never trained on: the score of every
    round on the pool, with an interval, where there is no test set.

    Its labels come first, from the same annotator and out of the same budgets, as round 0. Two
    fifths are spread evenly over groups of the pool; the rest go where these showed that scores
    vary. Each counts by its known probability to be drawn, so the score is unbiased.
    """

    labels: Annotated[int, Field(ge=8)] = Field(
        60,
        description="Labels to measure by: 60 tell a score of 0.5 to about 0.12, 200 to 0.07",
    )
    column: str | None = Field(
        None,
        description="Column of the pool whose values group it, as a source or a topic; null: "
        "clusters of embeddings",
    )
    embeddings: bool = Field(
        True,
        description="Embed the pool, to group it and to learn from the first labels where scores "
        "vary; false: by the column alone, or not at all",
    )
    models: list[str] = Field(
        default_factory=list,
        description="What `atgen-ray evaluate` scores: runs as RUN or RUN:ROUND, `untuned`, or "
        "folders of adapters. No example that these runs had labelled is drawn",
    )

    @property
    def clusters(self) -> bool:
        """Return whether clusters of embeddings group the pool."""
        return self.embeddings and self.column is None


class EvaluationConfig(Section):
    """Greedy answers, compared with the references."""

    metrics: list[str] | None = Field(
        None,
        description="Metrics computed on the test set (and the dev split); null: ROUGE, exact "
        "match and F1, with chrF in the place of ROUGE-1 and ROUGE-2 where the references are "
        "written without spaces between words",
    )
    models: MetricModelsConfig = Field(default_factory=MetricModelsConfig)
    judge: AnyLLMAnnotatorConfig | None = Field(
        None,
        discriminator="type",
        description="Who grades for the metric llm_judge: a model, with keys as annotator",
    )
    judges: list[Annotated[AnyLLMAnnotatorConfig, Field(discriminator="type")]] = Field(
        default_factory=list,
        description="Two or more models in the place of judge, best of different makers; "
        "llm_judge is the mean of their grades, judge_spread how far they are apart",
    )
    zero_shot: bool = Field(True, description="Evaluate the untuned model first")
    few_shot: NonNegativeInt = Field(
        0,
        description="Also evaluate the untuned model with this many labels of the first round "
        "shown as solved examples",
    )
    rivals: Changeable[list[RivalConfig]] = Field(
        default_factory=list,
        description="Alternatives to tuning that are scored at the end of the run: zero_shot, knn, "
        "few_shot, prompt, larger",
    )
    dev_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="Share of the labels held out of training to steer stopping; plateau, gain and "
        "dev_target need it, or an audit",
    )
    audit: AuditConfig | None = Field(
        None,
        description="Labels of the pool to measure by, where there is no test set; {} for the "
        "defaults, null: none",
    )
    bootstrap_samples: PositiveInt = Field(
        1000, description="Resamples behind a confidence interval"
    )
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.95, description="Level of the confidence intervals"
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> "EvaluationConfig":
        """Check that there is one judge, or a panel of them."""
        if self.judges and self.judge is not None:
            raise ValueError(
                "evaluation.judges is given beside evaluation.judge, expected one of them"
            )
        if len(self.judges) == 1:
            raise ValueError("evaluation.judges holds 1 judge, expected 2 or more")
        check_rivals(self.rivals)
        return self

    @field_validator("rivals", mode="before")
    @classmethod
    def _type_alone(cls, value: Any) -> Any:
        return name_rivals(value)

    @property
    def starts(self) -> bool:
        """Return whether the model is scored before it is tuned."""
        return self.zero_shot or any(isinstance(each, ZeroShotRival) for each in self.rivals)

    @property
    def retrieves(self) -> bool:
        """Return whether a rival needs embeddings of labels and of what is scored."""
        return any(isinstance(each, NearestRival | FewShotRival) for each in self.rivals)

    def list_asked(self) -> Sequence[tuple[str, AnyLLMAnnotatorConfig]]:
        """Return the other models that evaluation asks, with their keys: judges, and rivals."""
        larger = [
            (f"evaluation.rivals.{place}.model", rival.model)
            for place, rival in enumerate(self.rivals)
            if isinstance(rival, LargerRival)
        ]
        return [*self.list_judges(), *larger]

    def list_judges(self) -> Sequence[tuple[str, AnyLLMAnnotatorConfig]]:
        """Return the judges with their keys; empty without one."""
        if self.judge is not None:
            return [("evaluation.judge", self.judge)]
        return [(f"evaluation.judges.{place}", judge) for place, judge in enumerate(self.judges)]

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str] | None) -> list[str] | None:
        if names is None:
            return None
        if not names:
            raise ValueError(f"is empty, expected at least one of {', '.join(METRICS)}")
        for name in names:
            if name not in METRICS:
                raise ValueError(f"holds {name!r}, expected a known metric{nearest(name, METRICS)}")
        return names


class PlateauConfig(Section):
    """Stop when the dev score no longer rises."""

    metric: str = Field("rougeL", description="Metric on the dev split")
    patience: PositiveInt = Field(2, description="Rounds without a rise before the run stops")
    min_delta: NonNegativeFloat = Field(0.005, description="A smaller rise does not count")


class GainConfig(Section):
    """Stop when the dev score, continued by a power law, promises too little for the dollars of the
    next batch.
    """

    metric: str = Field("rougeL", description="Metric on the dev split")
    per_dollar: PositiveFloat = Field(
        description="Least rise of the metric that a dollar must be expected to buy"
    )
    certainty: Fraction = Field(
        0.8,
        description="Share of the plausible continuations that must promise less before the run "
        "stops",
    )
    dollars_per_label: PositiveFloat | None = Field(
        None, description="Price of a label in the next batch; null: the mean so far"
    )


class StoppingConfig(Section):
    """When the run ends; whichever comes first. The test set is never looked at."""

    rounds: PositiveInt = Field(5, description="Rounds of selection, annotation and training")
    labels: PositiveInt | None = Field(None, description="Label budget")
    dollars: PositiveFloat | None = Field(
        None, description="Budget of the run in dollars, never exceeded"
    )
    dollars_per_round: PositiveFloat | None = Field(
        None, description="Budget of a round in dollars"
    )
    dead_letters: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        0.2,
        description="The run stops before it trains where an annotating model left so large a "
        "share of a round's examples without a label, two at least; null: it trains on what it "
        "got",
    )
    plateau: PlateauConfig | None = Field(None, description="Plateau rule; null: off")
    gain: GainConfig | None = Field(None, description="Rule of the predicted gain; null: off")
    dev_target: dict[str, float] = Field(
        default_factory=dict,
        description="Stop when every named metric reaches its value on the dev split",
    )

    @property
    def steering(self) -> set[str]:
        """Return the metrics on the dev split that may end the run."""
        return set(self.dev_target) | {rule.metric for rule in (self.plateau, self.gain) if rule}
