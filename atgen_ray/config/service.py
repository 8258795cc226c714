"""Configuration of the service: the `args` of the Serve application in serve_configs/*.yaml."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from atgen_ray.config.active_jobs import ActiveJobsConfig
from atgen_ray.config.data import PromptConfig
from atgen_ray.config.embedding import EmbeddingConfig
from atgen_ray.config.model import EngineConfig, ModelConfig
from atgen_ray.config.plugins import BACKENDS
from atgen_ray.config.usage import UsageConfig
from atgen_ray.core.schema import Section


class LimitsConfig(Section):
    """Limits of one request and of all requests together."""

    body_bytes: PositiveInt = Field(
        8 * 2**20, description="Largest request body; a larger one gets 413"
    )
    upload_bytes: PositiveInt = Field(
        512 * 2**20, description="Largest file to upload; a larger one gets 413"
    )
    uploads: PositiveInt = Field(
        4, description="Uploads under way in one API replica; further ones get 429"
    )
    stored_bytes: PositiveInt = Field(
        20 * 2**30,
        description="All uploaded files together; one that does not fit any more gets 507",
    )
    person_stored_bytes: PositiveInt = Field(
        10 * 2**30, description="Of those, the files that one person has uploaded"
    )
    runs: PositiveInt = Field(
        32, description="Runs under way in the storage; a further one that is started gets 429"
    )
    plans: PositiveInt = Field(
        4, description="Plans and previews of runs under way in one API replica; more get 429"
    )
    requests: PositiveInt = Field(
        256,
        description="Requests under way in one API replica; further ones get 429 and Retry-After",
    )
    annotator_requests: PositiveInt = Field(
        32,
        description="Of those, requests of one annotator's token; further ones get 429 and "
        "Retry-After",
    )
    minute_requests: PositiveInt | None = Field(
        None,
        description="Requests a minute of a token that has no limit of its own, counted by each "
        "API replica; further ones get 429 and Retry-After; null: any number",
    )
    streams: PositiveInt = Field(
        256,
        description="Event streams of runs that are open in one API replica; further ones get 429 "
        "and Retry-After",
    )
    token_streams: PositiveInt = Field(16, description="Of those, event streams of one token")
    sign_ins: PositiveInt = Field(
        32,
        description="Sign-ins under way in one API replica; of more, those whose body is not "
        "there give way",
    )
    sign_in_seconds: PositiveFloat = Field(
        5.0, description="Time for the body of a sign-in; a later one gets 408"
    )
    body_seconds: PositiveFloat = Field(
        60.0,
        description="Time for a request's body, or for a part of an upload; a later one gets 408",
    )
    upload_seconds: PositiveFloat = Field(
        3_600.0, description="Time for a whole upload; a later one gets 408"
    )
    queued_selects: PositiveInt = Field(
        64, description="Selections that wait for a selector; further ones get 429"
    )
    background_selects: PositiveInt = Field(
        8,
        description="Selections under way in the background, each a process; further ones get 429",
    )
    queued_prompts: PositiveInt = Field(
        256, description="Model requests that wait for a replica; further ones get 429"
    )
    retry_after: PositiveInt = Field(2, description="Seconds that a refused caller is told to wait")
    inline_examples: PositiveInt = Field(
        2_000,
        description="Examples of a selection that is answered at once; a larger one becomes a "
        "background job",
    )
    inline_tokens: PositiveInt = Field(
        10_000,
        description="Tokens that the model may write for a selection that is answered at once, "
        "model.max_new_tokens an output; a dearer one becomes a background job, and so does one "
        "that reads hidden states",
    )
    examples: PositiveInt = Field(1_000_000, description="Examples of one selection at most")
    output_tokens: PositiveInt = Field(
        2_048, description="Longest answer that a caller may ask of the model"
    )

    @property
    def backpressure(self) -> dict[str, int]:
        """Return the settings with which Ray Serve refuses requests: 429, not its default 503."""
        return {"status_code": 429, "retry_after_s": self.retry_after}


class RetentionConfig(Section):
    """How long the service keeps what it does not need any more, in days; null: for ever."""

    raw_answers_days: PositiveFloat | None = Field(
        None,
        description="Raw answers of annotating models, of rounds whose labels are complete",
    )
    receipts_days: PositiveFloat | None = Field(
        None,
        description="Answers to requests of annotators that may be sent again; one day at most",
    )
    uploads_days: PositiveFloat | None = Field(
        None, description="Uploaded files that no run's configuration names"
    )
    runs_days: PositiveFloat | None = Field(
        None,
        description="Whole runs that ended, with their adapters and labels, after the last change",
    )


class ReplicaConfig(Section):
    """Settings of a model replica."""

    slots: PositiveInt | None = Field(
        None,
        description="Prompts that a replica works on at once; null: 128 with vLLM and SGLang, 32 "
        "with transformers",
    )
    stream_interval: PositiveInt = Field(
        4,
        description="Tokens that one event of a streamed answer holds; the first one comes at once",
    )
    adapters: PositiveInt = Field(
        16, description="Adapters that a replica keeps loaded; the longest unused goes first"
    )
    rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(
        64,
        description="Largest rank of an adapter that vLLM takes by name; its kernels reserve "
        "memory for it",
    )
    turn_seconds: PositiveFloat = Field(
        2.0,
        description="Where an engine holds one adapter at a time (vLLM on CPU): how long others "
        "wait before a change",
    )
    check_rows: Annotated[int, Field(ge=0)] = Field(
        2,
        description="Outputs of a new adapter that are compared with what its training, or "
        "transformers, gives before it answers anybody (vLLM, SGLang)",
    )

    stall_seconds: PositiveFloat = Field(
        60.0,
        description="Without a step of the engine for this long, while somebody waits, a replica "
        "is replaced; no less than the engine's longest step, which is the first pass over long "
        "prompts",
    )

    def count_slots(self, backend: str) -> int:
        """Return `slots`, or the default for `backend`: "vllm", "sglang" or "transformers"."""
        return self.slots or {"vllm": 128, "sglang": 128, "transformers": 32}[backend]


class ServiceConfig(Section):
    """One service: its storage, its model, its encoder and its limits."""

    storage: str = Field(
        "./atgen-runs",
        description="Folder or fsspec URL that holds the runs; absolute on a cluster",
    )
    database_url: SecretStr | None = Field(
        None,
        description="URL of the journal; null: ATGEN_DATABASE_URL, or SQLite at <storage>/atgen.db",
    )
    model: ModelConfig | None = Field(
        None, description="The model that replicas hold; null: no model is served"
    )
    model_name: str | None = Field(
        None, description="Name that callers ask for; null: the last part of model.id"
    )
    prompt: PromptConfig = Field(
        default_factory=PromptConfig,
        description="Prompt of selections that need the model's outputs",
    )
    engine: EngineConfig = Field(default_factory=EngineConfig)
    replica: ReplicaConfig = Field(default_factory=ReplicaConfig)
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    active_jobs: ActiveJobsConfig = Field(default_factory=ActiveJobsConfig)
    usage: UsageConfig = Field(default_factory=UsageConfig)
    resume_runs: bool = Field(
        True,
        description="Whether runs that the service started go on by themselves after their "
        "controller died, as with a restart; false: Resume on their pages goes on",
    )
    data_roots: list[str] = Field(
        default_factory=list,
        description="Folders, URLs and packages (package://NAME) below which selections and runs "
        "given over HTTP may read; none: only hub ids and the packages of the demo",
    )
    base_urls: list[str] = Field(
        default_factory=list,
        description="Endpoints that runs given over HTTP may name as base_url; none: only the "
        "providers' own",
    )
    proxies: list[str] = Field(
        default_factory=list,
        description="Addresses of proxies in front of the service, whose X-Forwarded-For names the "
        "caller in the audit log; none: the address that connects",
    )
    notice_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts that runs given over HTTP may send notices to, webhooks and mail "
        "servers; none: nowhere",
    )

    @model_validator(mode="after")
    def _engine_is_built_in(self) -> "ServiceConfig":
        if self.engine.backend not in BACKENDS:
            raise ValueError(
                f"engine.backend is {self.engine.backend!r}, expected one of "
                f"{', '.join(BACKENDS)}: replicas of the service run no engine of another package"
            )
        return self

    @property
    def target_model(self) -> ModelConfig:
        """Return the model; raise ValueError if the service has none."""
        if self.model is None:
            raise ValueError("this service has no model")
        return self.model
