"""Data of a report on one run, computed once by `collect_run`; nothing here reads files or draws.

A part that a run in progress does not have yet is empty or None.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atgen_ray.core.records import DeadLetter
from atgen_ray.reporting.diagnostics import PoolMap, RoundDiagnostics
from atgen_ray.reporting.examples import ExampleView, Scores
from atgen_ray.reporting.target_coverage import TargetCoverage

if TYPE_CHECKING:  # it brings the annotators with it
    from atgen_ray.annotation.human.draft_experiment import DraftEffects


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` examples with its confidence interval."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def known(self) -> bool:
        """Return whether the mean is a finite number."""
        return math.isfinite(self.mean)


def read_estimates(metrics: Mapping[str, Any] | None) -> dict[str, Estimate]:
    """Return the estimates of metrics as metrics.json has them: JSON has no NaN, and what is not
    finite is stored as null.
    """

    def read(value: Any) -> float:
        return float("nan") if value is None else float(value)

    return {
        name: Estimate(
            read(row.get("mean")),
            read(row.get("low")),
            read(row.get("high")),
            row.get("count") or 0,
        )
        for name, row in (metrics or {}).items()
    }


@dataclass(frozen=True)
class RivalView:
    """A rival of the tuned model, scored on the same examples."""

    name: str
    metrics: dict[str, Estimate]
    dollars_per_thousand: float = 0.0  # answers
    notes: tuple[str, ...] = ()
    difference: Estimate | None = None  # the tuned model's score less its own, by `Rivalry.metric`


@dataclass(frozen=True)
class Rivalry:
    """The rivals of the tuned model, and in a sentence whether tuning was worth it."""

    metric: str
    split: str
    rivals: list[RivalView]
    finding: str  # "worth it", "not worth it", "not shown", or "" where nothing can be said
    said: str


@dataclass(frozen=True)
class Pick:
    """One selected example: the scores it was picked by, the model's output then, and its label."""

    id: str
    rank: int
    score: float
    parts: dict[str, float]
    text: str
    output: str | None
    label: str | None
    provenance: str = ""  # who gave the label, and what it took


@dataclass(frozen=True)
class TrainingView:
    """One fine-tuning; `losses` are (step, nats per answer token)."""

    losses: list[tuple[int, float]]
    examples: int
    tokens: int
    steps: int


@dataclass(frozen=True)
class RoundView:
    """One round. `labels` and `dollars` are totals so far; `seconds` are those of this round, by
    step.

    `labels` is None until the round has its row in metrics.json.
    """

    round: int
    labels: int | None
    dollars: float
    seconds: dict[str, float]
    metrics: dict[str, Estimate]
    dev_metrics: dict[str, Estimate]
    strategy: str
    picked: int
    picks: list[Pick]
    training: TrainingView | None
    diagnostics: RoundDiagnostics | None
    bound: str | None = None  # how near the batch is to the best one, where that is known
    # Of the untuned model that is shown labels of this round in its prompt.
    few_shot: dict[str, Estimate] = field(default_factory=dict)
    target: TargetCoverage | None = None  # by the picks so far; None without a target
    audited: dict[str, Estimate] = field(default_factory=dict)  # on the pool, by the audit
    stale: int = 0  # labels that the round trained on and that have changed since


@dataclass(frozen=True)
class PlanView:
    """One number of the plan made before the run, and its actual value so far."""

    name: str
    planned: float | None
    actual: float | None


@dataclass(frozen=True)
class RunView:
    """One run, finished or in progress."""

    name: str
    stopped: str | None  # why the run ended; None while it goes on
    rounds: list[RoundView]
    metric: str | None  # the metric of the headline
    pool_size: int | None
    test_size: int | None
    pool_map: PoolMap | None
    examples: list[ExampleView]
    first_scores: Scores  # of single test examples, first evaluated round
    last_scores: Scores
    config: dict[str, Any]
    config_text: str
    versions: dict[str, str]
    dead_letters: list[DeadLetter]  # the first ones
    dead_letter_count: int = 0
    plan: list[PlanView] = field(default_factory=list)
    drafts: "DraftEffects | None" = None  # None without the experiment
    people: list[dict[str, Any]] = field(default_factory=list)  # `measure_people`
    # By the journal, which also counts the round under way; None: the rounds that have ended.
    audit_labels: int = 0  # that measure and are never trained on
    audit_gain: Estimate | None = None  # of the headline's metric, first to last round
    growth: list[str] = field(default_factory=list)  # lines on rows that were added
    unaudited: int = 0  # examples that were added after the audit was drawn
    bought: int | None = None
    paid: float | None = None
    rivalry: Rivalry | None = None  # None before a tuned model, or without a rival

    @property
    def audit_alone(self) -> bool:
        """Return whether the scores are those of the audit, for want of a test set."""
        return self.test_size is None and self.audit_labels > 0

    @property
    def metrics(self) -> list[str]:
        """Return every metric: the headline's first, then in the order of the configuration."""
        found = {name for view in self.rounds for name in view.metrics}
        asked = (self.config.get("evaluation") or {}).get("metrics") or []
        order = dict.fromkeys([self.metric, *asked, *sorted(found)])
        return [name for name in order if name in found]

    @property
    def done(self) -> list[RoundView]:
        """Return the rounds that have their row in metrics.json."""
        return [view for view in self.rounds if view.labels is not None]

    def curve(self, metric: str) -> list[tuple[RoundView, Estimate]]:
        """Return the rounds in which `metric` has a value, with that value."""
        return [
            (view, view.metrics[metric])
            for view in self.done
            if metric in view.metrics and view.metrics[metric].known
        ]

    @property
    def labels(self) -> int:
        """Return the labels bought so far."""
        return self.scored_labels if self.bought is None else self.bought

    @property
    def dollars(self) -> float:
        """Return the dollars spent so far."""
        return self.scored_dollars if self.paid is None else self.paid

    @property
    def scored_labels(self) -> int:
        """Return the labels bought until the last round that has ended."""
        return max((view.labels or 0 for view in self.done), default=0)

    @property
    def scored_dollars(self) -> float:
        """Return the dollars spent until the last round that has ended."""
        return max((view.dollars for view in self.done), default=0.0)

    @property
    def seconds(self) -> float:
        """Return the seconds of all steps of all rounds so far."""
        return self.seconds_until(max((view.round for view in self.done), default=-1))

    def seconds_until(self, round: int) -> float:
        """Return the seconds of all steps up to the end of `round`."""
        return math.fsum(
            seconds
            for view in self.rounds
            if view.round <= round
            for seconds in view.seconds.values()
        )
