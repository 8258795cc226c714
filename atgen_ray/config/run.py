"""Root of the configuration tree of a run, and the checks that compare several sections."""

import re
from typing import Any

from pydantic import (
    Field,
    NonNegativeInt,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atgen_ray.config.annotation import (
    AnnotatorConfig,
    DatasetAnnotatorConfig,
    RouterConfig,
    list_annotators,
)
from atgen_ray.config.annotators.language_models import LLMAnnotatorConfig
from atgen_ray.config.annotators.paid_models import RemoteAnnotatorConfig
from atgen_ray.config.annotators.people import HumanAnnotatorConfig
from atgen_ray.config.data import DataConfig, PromptConfig
from atgen_ray.config.embedding import EmbeddingConfig
from atgen_ray.config.evaluation import EvaluationConfig, StoppingConfig
from atgen_ray.config.model import EngineConfig, TargetModelConfig
from atgen_ray.config.notifications import NotifyConfig
from atgen_ray.config.plugins import name_annotator
from atgen_ray.config.selection import SelectionConfig, add_needs
from atgen_ray.config.training import TrainingConfig
from atgen_ray.core.errors import nearest
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.core.schema import Changeable, Section
from atgen_ray.evaluation import METRICS, find_lack
from atgen_ray.selection import Need, find_needs

SOURCE_PATTERN = re.compile(rf"{NAME_PATTERN.pattern}(:[1-9][0-9]{{0,5}})?")


class RunConfig(Section):
    """Everything that defines a run."""

    name: str = Field("run", description="Name of the run: a-z, 0-9 and -, at most 63 characters")
    seed: NonNegativeInt = Field(42, description="Seed of every random choice")
    storage: Changeable[str] = Field(
        "./atgen-runs", description="Folder or fsspec URL (s3://, gs://) that holds the runs"
    )
    database_url: Changeable[SecretStr | None] = Field(
        None,
        description="URL of the journal, postgresql:// or sqlite:///FILE; null: SQLite at "
        "<storage>/atgen.db. Better given in the environment as ATGEN_DATABASE_URL, where every "
        "command finds it",
    )
    cache: Changeable[str | None] = Field(
        None,
        description="Folder or fsspec URL where runs share embeddings and the untuned model's "
        "outputs by content; null: nothing is shared. Results are those of a run alone but for "
        "the last bits, as other rows share a batch",
    )
    fork_from: str | None = Field(
        None,
        description="RUN or RUN:ROUND: pool, labels and ledger of that run of the same storage, "
        "up to that round, are taken over, and this run goes on from there in its own way; null: "
        "a run of its own",
    )
    data: DataConfig
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    model: TargetModelConfig
    engine: EngineConfig = Field(default_factory=EngineConfig)
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    annotator: AnnotatorConfig = Field(
        default_factory=DatasetAnnotatorConfig,
        discriminator="type",
        description="Who labels; each type has its keys",
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    stopping: Changeable[StoppingConfig] = Field(default_factory=StoppingConfig)
    notify: Changeable[NotifyConfig | None] = Field(
        None, description="Who is told that the run ended or stalls, and how; null: nobody"
    )

    @property
    def is_design(self) -> bool:
        """Return whether all examples are picked and labelled at once (experimental design)."""
        return isinstance(self.annotator, HumanAnnotatorConfig) and self.annotator.mode == "design"

    @property
    def rounds(self) -> int:
        """Return the largest number of rounds."""
        return 1 if self.is_design else self.stopping.rounds

    def list_needs(self, round: int) -> frozenset[Need]:
        """Return the inputs that the strategy of `round` needs, and its shortlist if it has one."""
        if self.selection.is_chosen(round):
            return frozenset()
        needs = find_needs(*self.selection.choose_strategy(round))
        return add_needs(needs, self.selection.shortlist)

    @property
    def embeds(self) -> bool:
        """Return whether the run embeds its pool: for a strategy, for the weighting of labels,
        for the strata of an audit, or to say how much of the target is covered.
        """
        needs = self.list_needs(1)
        if self.rounds > 1:  # later ones are alike; a run that is given more rounds embeds then
            needs |= self.list_needs(2)
        audit = self.evaluation.audit
        wanted = bool(needs & {"embeddings", "target"}) or self.data.target is not None
        wanted |= audit is not None and audit.clusters
        return wanted or self.training.reweight is not None

    def count_picks(self, round: int) -> int:
        """Return how many examples `round` asks for, before any budget."""
        later = self.selection.count
        first = self.selection.first.count or self.selection.count
        if self.is_design:
            return first + later * (self.stopping.rounds - 1)
        return first if round == 1 else later

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(
                f"is {name[:80]!r}, expected a-z, 0-9 and -, at most 63 characters, the first not -"
            )
        return name

    @field_validator("fork_from")
    @classmethod
    def _names_a_run(cls, source: str | None) -> str | None:
        if source is not None and not SOURCE_PATTERN.fullmatch(source):
            raise ValueError(f"is {source[:80]!r}, expected RUN or RUN:ROUND, as demo:3")
        return source

    @field_validator("annotator", mode="before")
    @classmethod
    def _dataset_unless_said(cls, tree: Any) -> Any:
        tree = name_annotator({} if tree is None else tree)
        return {"type": "dataset"} | tree if isinstance(tree, dict) else tree

    @model_validator(mode="after")
    def _annotators_fit(self, info: ValidationInfo) -> "RunConfig":
        if not (info.context or {}).get("labels", True):
            return self
        for key, annotator in list_annotators(self.annotator):
            if annotator.type == "dataset" and not self.data.references:
                raise ValueError(
                    f"{key}.type is 'dataset' but data.references is empty, expected the answers' "
                    f"column"
                )
            if isinstance(annotator, LLMAnnotatorConfig):
                self._check_language(key, annotator)
        self._check_judge()
        return self

    def _check_judge(self) -> None:
        """Raise ValueError where a metric has too few judges, or a judge or a rival no price."""
        from atgen_ray.config.prices import find_price

        judges = self.evaluation.list_judges()
        named = (*(self.evaluation.metrics or ()), *self.stopping.steering)
        for name in named:
            if name in METRICS and (fault := find_lack(name, len(judges))):
                raise ValueError(f"evaluation.metrics holds {name!r}, {fault}")
        for key, asked in self.evaluation.list_asked():
            if isinstance(asked, RemoteAnnotatorConfig):
                find_price(asked, key)

    def _check_language(self, key: str, annotator: LLMAnnotatorConfig) -> None:
        """Raise ValueError where the settings of an annotating model contradict each other."""
        from atgen_ray.config.prices import find_price

        if not (
            annotator.guidelines
            or self.prompt.system
            or self.prompt.template.strip() != "{{ input }}"
        ):
            raise ValueError(
                f"{key}.guidelines is empty, expected what a label is, or a prompt.template that "
                f"asks for it"
            )
        # Greedy votes are all the same, so that their agreement would say nothing.
        sent = (
            annotator.sent_temperature
            if isinstance(annotator, RemoteAnnotatorConfig)
            else annotator.temperature
        )
        if annotator.votes > 1 and sent == 0:
            raise ValueError(
                f"{key}.votes is {annotator.votes}, expected {key}.temperature above 0 beside it, "
                f"as 0.7"
            )
        if annotator.output_field and not annotator.output_schema:
            raise ValueError(f"{key}.output_field is given, expected {key}.output_schema beside it")
        fields = (annotator.output_schema or {}).get("properties")
        if (
            annotator.output_field
            and isinstance(fields, dict)
            and fields
            and annotator.output_field not in fields
        ):
            hint = nearest(annotator.output_field, fields)
            raise ValueError(
                f"{key}.output_field is {annotator.output_field!r}, expected a property of the "
                f"schema{hint}"
            )
        router = self.annotator if isinstance(self.annotator, RouterConfig) else None
        first = key in ("annotator.first", "annotator.stages.0.annotator")
        if first and router and router.weighs_confidence and annotator.votes < 2:
            raise ValueError(
                f"{key}.votes is {annotator.votes}, expected 2 or more: their agreement is the "
                f"confidence"
            )
        people = (each for _, each in list_annotators(self.annotator))
        if annotator.suspects == "people" and not any(
            isinstance(each, HumanAnnotatorConfig) for each in people
        ):
            raise ValueError(
                f"{key}.suspects is 'people', expected a router that ends with people, or 'bury'"
            )
        if isinstance(annotator, RemoteAnnotatorConfig):
            find_price(annotator, key)

    @model_validator(mode="after")
    def _has_a_first_batch(self) -> "RunConfig":
        if self.selection.ids is not None and self.fork_from is not None:
            raise ValueError(
                f"selection.ids is given beside fork_from={self.fork_from}, whose first batch is "
                f"taken over: expected one of the two"
            )
        return self

    @model_validator(mode="after")
    def _target_is_given(self) -> "RunConfig":
        if self.data.target is not None:
            return self
        selection = self.selection
        named = {
            "selection": (selection.strategy, selection.parameters),
            "selection.first": (selection.first.strategy, selection.first.parameters),
        }
        if selection.shortlist is not None:
            shortlist = selection.shortlist
            named["selection.shortlist"] = (shortlist.strategy, shortlist.parameters)
        for key, (name, parameters) in named.items():
            if name is not None and "target" in find_needs(name, parameters):
                raise ValueError(
                    f"{key}.strategy is '{name}', which picks for a target, expected data.target: "
                    f"a file with prompts of the use in mind"
                )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "RunConfig":
        steered = self.stopping.steering
        for metric in sorted(steered):
            _check_steering(metric, self.evaluation.metrics)
        audit = self.evaluation.audit
        if steered and not self.evaluation.dev_fraction and audit is None:
            rules = "stopping.plateau, stopping.gain and stopping.dev_target"
            raise ValueError(
                f"{rules} need evaluation.dev_fraction above 0, as 0.2, or evaluation.audit"
            )
        budget = self.stopping.labels
        if audit is not None and budget is not None and audit.labels >= budget:
            raise ValueError(
                f"evaluation.audit.labels is {audit.labels}, expected fewer than stopping.labels "
                f"({budget}), out of which they are bought"
            )
        if self.model.adapter is not None and self.model.host == "serve":
            raise ValueError(
                "model.adapter is given, which replicas of the service do not begin with, expected "
                "model.host=batch beside it"
            )
        if self.model.adapter is not None and self.training.method == "full":
            raise ValueError(
                "model.adapter is given, but training.method is 'full', which trains no adapter: "
                "expected the adapter's method, such as lora"
            )
        if self.model.host == "serve" and "nll" in (self.evaluation.metrics or ()):
            raise ValueError(
                "evaluation.metrics holds 'nll', which replicas of the service do not compute, "
                "expected model.host=batch beside it"
            )
        if self.model.host == "serve" and self.training.method in ("full", "dora"):
            raise ValueError(
                f"training.method is '{self.training.method}', expected lora, rslora or qlora for "
                f"model.host=serve: "
                "replicas keep the base model and add adapters to it"
            )
        return self


def read_source(config: RunConfig) -> tuple[str, int]:
    """Return the run that `config` continues and the last round to take over (0: all); "" and 0 for
    a run that starts anew.
    """
    name, _, round = (config.fork_from or "").partition(":")
    return name, int(round or 0)


def _check_steering(metric: str, computed: list[str] | None) -> None:
    """Raise ValueError unless `metric` is computed and has a direction."""
    known = METRICS if computed is None else computed
    if metric not in known:
        expected = "a known metric" if computed is None else "one of evaluation.metrics"
        raise ValueError(
            f"stopping names metric '{metric}', expected {expected}{nearest(metric, known)}"
        )
    if METRICS[metric].better == "neither":
        raise ValueError(
            f"stopping names metric '{metric}', which is no better the larger or the smaller it is"
        )
