"""The configuration of a run: one pydantic tree. `atgen-ray config explain` prints every key with its description."""

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)

from atgen_ray.errors import nearest
from atgen_ray.mistakes import check_values
from atgen_ray.settings import Section

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class DuplicatesConfig(Section):
    """Near-duplicates within the pool, by MinHash over word trigrams."""

    action: Literal["exclude", "mark", "off"] = Field(
        "exclude", description="exclude: never select a near-duplicate of an earlier row; mark: only note it; off"
    )
    threshold: Fraction = Field(0.9, description="Estimated Jaccard similarity from which two rows are duplicates")


class DataConfig(Section):
    """Where the examples are and which columns hold what."""

    pool: str = Field(
        description="File, folder, glob or URL of the pool, a Hugging Face dataset id, or package://PACKAGE/FILE"
    )
    test: str | None = Field(None, description="Test examples with answers, given like `pool`; null: no test split")
    format: Literal["auto", "jsonl", "csv", "parquet", "saved", "huggingface"] = Field(
        "auto", description="auto goes by the file names; saved is a folder made by datasets.save_to_disk"
    )
    subset: str | None = Field(None, description="Configuration name of a Hugging Face dataset")
    pool_split: str = Field("train", description="Split that is the pool (Hugging Face and saved datasets)")
    test_split: str = Field("test", description="Split that is the test set (Hugging Face and saved datasets)")
    input: str = Field("input", description="Column of the input; dots reach into nested columns: paper.abstract")
    references: str | list[str] | None = Field(
        None, description="Column or columns of the known answers; a list column gives several references"
    )
    test_references: str | list[str] | None = Field(
        None, description="Column or columns of the answers in the test set; null: as `references`"
    )
    limit: PositiveInt | None = Field(None, description="Keep a seeded random subset of the pool of this size")
    test_limit: PositiveInt | None = Field(None, description="Keep a seeded random subset of the test set")
    duplicates: DuplicatesConfig = Field(default_factory=DuplicatesConfig)


class Shot(Section):
    """One solved example shown in every prompt."""

    input: str = Field(description="The example's input, put through the template")
    output: str = Field(description="The answer shown")


class PromptConfig(Section):
    """How an example becomes a prompt; the tokenizer's own chat template does the rest."""

    system: str | None = Field(None, description="System turn; null leaves the chat template's own default")
    template: str = Field(
        "{{ input }}",
        description="Jinja template of the user turn; sees `input` and the row's columns except the answers",
    )
    few_shot: list[Shot] = Field(default_factory=list, description="Solved examples shown before the question")
    response_start: str = Field("", description="Text that every answer starts with, given to the model")
    overlong: Literal["truncate", "reject"] = Field(
        "truncate", description="Inputs over model.max_prompt_tokens: cut the input's end, or to the dead letters"
    )


class ModelConfig(Section):
    """The language model that is taught."""

    id: str = Field(description="Hugging Face id, folder, .gguf file, or package://PACKAGE/FILE")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub")
    trust_remote_code: bool = Field(False, description="Run code that comes with the checkpoint")
    dtype: Dtype = Field("auto", description="auto: bfloat16 where the hardware has it, else float32")
    max_prompt_tokens: PositiveInt = Field(1024, description="Longest prompt in tokens")
    max_new_tokens: PositiveInt = Field(64, description="Longest answer in tokens")
    host: Literal["batch"] = Field(
        "batch", description="Where engines live: batch puts them in Ray Data actors for a step of the run"
    )


class EngineConfig(Section):
    """The engine that generates."""

    backend: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="auto: vllm where it is installed, else transformers"
    )
    workers: PositiveInt = Field(1, description="Engine replicas")
    cpus_per_worker: PositiveFloat = Field(1.0, description="CPUs that Ray reserves for a replica")
    threads_per_worker: PositiveInt | None = Field(
        None, description="Compute threads of a replica on CPU; null: the machine's cores over `workers`"
    )
    gpus_per_worker: NonNegativeFloat | None = Field(
        None, description="GPUs of a replica; null: one where the cluster has GPUs, else none"
    )
    batch_size: PositiveInt = Field(32, description="Prompts in one batch")
    adapters: Literal["auto", "name", "merged"] = Field(
        "auto",
        description="How vLLM takes an adapter: by name beside the base model, or added to the weights as they "
        "are loaded; auto: by name on GPU, merged on CPU, where LoRA kernels are slow",
    )
    check_rows: int = Field(
        4, ge=0, description="Outputs whose log-probabilities are checked against transformers after a new adapter"
    )
    options: dict[str, JsonValue] = Field(default_factory=dict, description="Further arguments of the vLLM engine")


class EmbeddingConfig(Section):
    """The sentence encoder behind diversity."""

    model: str = Field("sentence-transformers/all-MiniLM-L6-v2", description="Encoder, given like model.id")
    workers: PositiveInt = Field(1, description="Encoder replicas")
    batch_size: PositiveInt = Field(64, description="Texts in one batch")
    max_tokens: PositiveInt = Field(256, description="Texts are cut to this many tokens")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 is faster on recent CPUs")


class FirstBatchConfig(Section):
    """The first query batch, chosen with no labels at all."""

    strategy: str | None = Field(None, description="Strategy of the first batch; null: the run's own")
    count: PositiveInt | None = Field(None, description="Size of the first batch; null: as later ones")
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="Parameters of that strategy")


class SelectionConfig(Section):
    """Which examples are worth labelling."""

    strategy: str = Field("huds", description="Query strategy; `atgen-ray config explain` lists all of them")
    count: PositiveInt = Field(10, description="Examples picked a round")
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="Parameters of the strategy")
    first: FirstBatchConfig = Field(default_factory=FirstBatchConfig)
    candidates: PositiveInt | None = Field(
        None, description="Score only a seeded random subset of the pool of this size; null: all of it"
    )

    @model_validator(mode="after")
    def _known_strategies(self) -> "SelectionConfig":
        _check_strategy("selection", self.strategy, self.parameters)
        if self.first.strategy is not None:
            _check_strategy("selection.first", self.first.strategy, self.first.parameters)
        elif self.first.parameters:
            raise ValueError("selection.first.parameters is given, expected selection.first.strategy beside it")
        return self


def _check_strategy(section: str, name: str, parameters: dict[str, JsonValue]) -> None:
    from atgen_ray.selection import STRATEGIES

    if name not in STRATEGIES:
        raise ValueError(f"{section}.strategy is {name!r}, expected a known strategy{nearest(name, STRATEGIES)}")
    check_values(parameters, STRATEGIES[name].parameters, f"{section}.parameters.")


class DatasetAnnotatorConfig(Section):
    """Known answers from the dataset: for benchmarks."""

    type: Literal["dataset"] = Field("dataset", description="dataset: the answers in data.references")
    price_per_label: NonNegativeFloat = Field(0.0, description="Dollars counted for a label, to draw cost curves")


class TrainingConfig(Section):
    """Fine-tuning of the adapter, from the base model, on all labels so far."""

    method: Literal["lora"] = Field("lora", description="lora: low-rank adapters on all linear layers")
    rank: PositiveInt = Field(16, description="LoRA rank")
    alpha: PositiveInt = Field(32, description="LoRA alpha; the update is scaled by alpha / rank")
    dropout: Fraction = Field(0.0, description="LoRA dropout")
    target_modules: str | list[str] = Field("all-linear", description="Modules that get an adapter")
    epochs: PositiveFloat = Field(3, description="Passes over the labels")
    learning_rate: PositiveFloat = Field(2e-4, description="Peak learning rate")
    schedule: Literal["linear", "cosine", "constant"] = Field("cosine", description="Learning-rate schedule")
    warmup_fraction: Fraction = Field(0.03, description="Share of the steps that warm up")
    weight_decay: NonNegativeFloat = Field(0.01, description="AdamW weight decay")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clipping")
    batch_size: PositiveInt = Field(8, description="Examples in one optimiser step, over all workers")
    accumulation: PositiveInt = Field(1, description="Micro-batches that one optimiser step is split into")
    gradient_checkpointing: bool = Field(False, description="Trade time for memory")
    warm_start: bool = Field(False, description="Continue from the last round's adapter instead of the base")
    workers: PositiveInt = Field(1, description="Data-parallel workers (DDP)")
    cpus_per_worker: PositiveFloat = Field(1.0, description="CPUs that Ray reserves for a worker")
    threads_per_worker: PositiveInt | None = Field(
        None, description="Compute threads of a worker on CPU; null: the machine's cores over `workers`"
    )
    use_gpu: bool | None = Field(None, description="null: where the cluster has a GPU for every worker")

    @model_validator(mode="after")
    def _divides(self) -> "TrainingConfig":
        share = self.workers * self.accumulation
        if self.batch_size % share:
            raise ValueError(
                f"training.batch_size is {self.batch_size}, expected a multiple of workers x accumulation = {share}"
            )
        return self


class EvaluationConfig(Section):
    """Greedy answers, compared with the references."""

    metrics: list[str] = Field(
        default_factory=lambda: ["rouge1", "rouge2", "rougeL", "exact_match", "token_f1"],
        description="Metrics computed on the test set (and the dev split)",
    )
    zero_shot: bool = Field(True, description="Evaluate the untuned model first")
    dev_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Share of the labels held out of training to steer stopping; needed by plateau and dev_target"
    )
    bootstrap_samples: PositiveInt = Field(1000, description="Resamples behind a confidence interval")
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.95, description="Level of the confidence intervals")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str]) -> list[str]:
        from atgen_ray.evaluation import METRICS

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


class StoppingConfig(Section):
    """When the run ends; whichever comes first. The test set is never looked at."""

    rounds: PositiveInt = Field(5, description="Rounds of selection, annotation and training")
    labels: PositiveInt | None = Field(None, description="Label budget")
    plateau: PlateauConfig | None = Field(None, description="Plateau rule; null: off")
    dev_target: dict[str, float] = Field(
        default_factory=dict, description="Stop when every named metric reaches its value on the dev split"
    )


class RunConfig(Section):
    """Everything that defines a run."""

    name: str = Field("run", description="Name of the run: a-z, 0-9 and -, at most 63 characters")
    seed: NonNegativeInt = Field(42, description="Seed of every random choice")
    storage: str = Field("./atgen-runs", description="Folder or fsspec URL (s3://, gs://) that holds the runs")
    database_url: SecretStr | None = Field(
        None,
        description="URL of the journal, postgresql:// or sqlite:///FILE; null: SQLite at <storage>/atgen.db. Better "
        "given in the environment as ATGEN_DATABASE_URL, where every command finds it",
    )
    data: DataConfig
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    model: ModelConfig
    engine: EngineConfig = Field(default_factory=EngineConfig)
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    annotator: DatasetAnnotatorConfig = Field(default_factory=DatasetAnnotatorConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    stopping: StoppingConfig = Field(default_factory=StoppingConfig)

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"is {name[:80]!r}, expected a-z, 0-9 and -, at most 63 characters, the first not -")
        return name

    @model_validator(mode="after")
    def _parts_fit(self) -> "RunConfig":
        if self.annotator.type == "dataset" and not self.data.references:
            raise ValueError("annotator.type is 'dataset' but data.references is empty, expected the answers' column")
        stopping = self.stopping
        steered = set(stopping.dev_target) | ({stopping.plateau.metric} if stopping.plateau else set())
        for metric in sorted(steered):
            if metric not in self.evaluation.metrics:
                hint = nearest(metric, self.evaluation.metrics)
                raise ValueError(f"stopping names metric '{metric}', expected one of evaluation.metrics{hint}")
        if steered and not self.evaluation.dev_fraction:
            raise ValueError("stopping.plateau and stopping.dev_target need evaluation.dev_fraction above 0, as 0.2")
        return self
