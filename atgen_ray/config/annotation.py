"""Sections of the configuration for annotators: who labels the query batch."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atgen_ray.config.data import Shot
from atgen_ray.config.dialects import (
    BUDGETED,
    DialectName,
    find_dialect,
    refuses_temperature,
)
from atgen_ray.config.messages import check_values
from atgen_ray.config.model import EngineConfig, ModelConfig
from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, CHECKS, name_annotator
from atgen_ray.core.errors import nearest
from atgen_ray.core.json_schema import check_schema
from atgen_ray.core.schema import Changeable, Fraction, Section


class DatasetAnnotatorConfig(Section):
    """Known answers from the dataset: for benchmarks."""

    type: Literal["dataset"] = Field(
        "dataset", description="dataset: the answers in data.references"
    )
    price_per_label: Changeable[NonNegativeFloat] = Field(
        0.0, description="Dollars counted for a label, to draw cost curves"
    )


class EmailConfig(Section):
    """E-mail to annotators. The password is read from the environment: ATGEN_SMTP_PASSWORD."""

    to: Annotated[list[str], Field(min_length=1)] = Field(description="Addresses of the annotators")
    sender: str = Field(description="Address that it comes from")
    host: str = Field(description="Name of the mail server")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(587, description="Port of the mail server")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How the connection is encrypted"
    )
    user: str | None = Field(
        None, description="Name to sign in with at the mail server; null: do not sign in"
    )

    @field_validator("to", "sender")
    @classmethod
    def _is_address(cls, value: list[str] | str) -> list[str] | str:
        for address in [value] if isinstance(value, str) else value:
            if (
                "@" not in address
                or not address.isprintable()
                or any(mark in address for mark in " ,;<>")
            ):
                raise ValueError(f"is {address[:80]!r}, expected an address as name@example.org")
        return value


class NoticeConfig(Section):
    """Notifications of annotators about new tasks."""

    webhook: str | None = Field(
        None,
        description="URL that a JSON message is posted to; null: ATGEN_WEBHOOK_URL in the "
        "environment, where one with a secret in it belongs, or none",
    )
    email: EmailConfig | None = Field(None, description="Who is told by e-mail; null: nobody")
    service: str | None = Field(
        None,
        description="Address of the service as annotators reach it, for links in the notice",
    )

    @field_validator("webhook", "service")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s/?#@\\]+(/[^\s\\]*)?", url):
            raise ValueError(f"is {url[:80]!r}, expected https://HOST/PATH")
        return url


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


class PriceConfig(Section):
    """Dollars for a million tokens, where the shipped table has no price or another one."""

    input: NonNegativeFloat = Field(description="Dollars for a million prompt tokens")
    output: NonNegativeFloat = Field(description="Dollars for a million output tokens")
    cached: NonNegativeFloat | None = Field(
        None,
        description="Dollars for a million prompt tokens that the provider's cache had; null: as "
        "input",
    )
    written: NonNegativeFloat | None = Field(
        None,
        description="Dollars for a million prompt tokens that enter the provider's cache; null: as "
        "input",
    )
    batch_discount: Fraction = Field(0.5, description="Share of the price that batch mode saves")


# Keys of `extra_body` that would change what is asked or paid, with the settings for them.
RESERVED = {
    "model": "model",
    "messages": "guidelines",
    "system": "guidelines",
    "temperature": "temperature",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "n": "votes",
    "stream": "mode",
    "store": "recovery",
}
LEAST_THOUGHT = 1024  # tokens, the smallest budget of thought that Anthropic takes
SECRET_HEADERS = re.compile(r"authori[sz]ation|api-?key|token|secret|cookie", re.IGNORECASE)


class RemoteAnnotatorConfig(LLMAnnotatorConfig):
    """Settings of the annotators of paid providers."""

    model: str = Field(description="Name of the model at the provider")
    mode: Literal["sync", "batch"] = Field(
        "sync",
        description="sync: one request an example, many at once; batch: batch jobs, at half "
        "price, within a day",
    )
    base_url: str | None = Field(None, description="Another endpoint that speaks the same protocol")
    structured: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Answers without an output_schema come as JSON that the provider enforces, so "
        "that nothing can stand beside the label; auto: with the models that are known to do it at "
        "the provider itself",
    )
    api_key_file: Changeable[str | None] = Field(
        None, description="File that holds the key; null: the environment variable"
    )
    price: Changeable[PriceConfig | None] = Field(
        None, description="Prices; null: as in the table that `atgen-ray prices list` shows"
    )
    reasoning_effort: Changeable[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    ] = Field(
        None,
        description="How much the model thinks before it answers, within max_output_tokens; null: "
        "as the provider has it. Models take some of the values; none turns thought off",
    )
    thinking_tokens: Changeable[NonNegativeInt | None] = Field(
        None,
        description="Tokens of an answer that the model may think at most, where its provider "
        "takes such a budget; 0 turns thought off; null: no budget is sent",
    )
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="More keys of each request's body, as the provider documents them",
    )
    extra_headers: dict[str, str] = Field(
        default_factory=dict, description="More headers of each request; no keys, see api_key_file"
    )
    tokenizer: Changeable[str | None] = Field(
        None,
        description="Tokenizer that counts a prompt before money is held for it: a folder, a hub "
        "id in the local cache, or an encoding of tiktoken; null: by the model's name. Nothing is "
        "downloaded; without one, a prompt is held at a token for every byte until the first "
        "answer has told the length of what all prompts share",
    )
    concurrency: Changeable[PositiveInt] = Field(
        16, description="Requests (or batch jobs) in flight at once"
    )
    timeout_seconds: Changeable[PositiveFloat] = Field(120.0, description="Deadline of one call")
    outage_minutes: Changeable[PositiveFloat] = Field(
        30.0,
        description="How long the provider may be out of reach or overloaded before the run pauses",
    )
    poll_seconds: Changeable[PositiveFloat] = Field(
        30.0, description="Seconds between two looks at a batch job"
    )
    batch_hours: Changeable[PositiveFloat] = Field(
        26.0, description="A batch job that takes longer is cancelled and collected"
    )
    shard_rows: Changeable[PositiveInt] = Field(
        20_000, description="Requests of one batch job at most; the provider's limit holds"
    )
    on_stop: Changeable[Literal["detach", "cancel"]] = Field(
        "detach",
        description="What becomes of batch jobs when the run is stopped: detach leaves them "
        "running",
    )
    in_doubt: Changeable[Literal["bury", "resend"]] = Field(
        "bury",
        description="A request whose answer was lost and cannot be looked up may be billed: bury "
        "counts its worst case as paid and never sends it again; resend may pay twice",
    )

    @field_validator("extra_body")
    @classmethod
    def _is_free(cls, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in body:
            if name in RESERVED:
                raise ValueError(f"holds {name!r}, expected the setting {RESERVED[name]!r} for it")
        return body

    @field_validator("extra_headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if SECRET_HEADERS.search(name):
                raise ValueError(
                    f"holds {name[:80]!r}, expected no key in a configuration: put it into the "
                    f"file that 'api_key_file' names"
                )
            if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII) or not re.fullmatch(
                r"[\x20-\x7e]*", value
            ):
                raise ValueError(
                    f"holds {name[:80]!r}, expected a name and a value of an HTTP header"
                )
        return headers

    @property
    def sent_temperature(self) -> float | None:
        """Return the temperature that is sent: none to a model that refuses it."""
        if refuses_temperature(self.model, self.reasoning_effort):
            return None
        return self.temperature


class OpenAIAnnotatorConfig(RemoteAnnotatorConfig):
    """Chat completions of OpenAI, or of any server that speaks its protocol."""

    type: Literal["openai"] = Field(
        description="openai: OpenAI, or a compatible server at base_url"
    )
    dialect: DialectName = Field(
        "auto",
        description="How the server differs from OpenAI, as `docs/providers.md` lists it: key, "
        "names of limits, reasoning; auto: by the host of base_url",
    )
    api_version: str | None = Field(
        None,
        description="api-version of Azure OpenAI, with base_url "
        "https://RESOURCE.openai.azure.com/openai/deployments/DEPLOYMENT; null: the v1 endpoint, "
        "which needs none",
    )
    recovery: Literal["auto", "stored", "none"] = Field(
        "auto",
        description="stored: OpenAI keeps every completion (store: true), so that one whose answer "
        "was lost is found, not paid again; auto: stored at OpenAI, none elsewhere",
    )

    @field_validator("dialect")
    @classmethod
    def _dialect_fits(cls, name: DialectName, info: ValidationInfo) -> DialectName:
        base_url = info.data.get("base_url")
        dialect = find_dialect(name, base_url)
        if dialect.url is None and base_url is None:
            raise ValueError(
                f"is {name!r}, expected base_url beside it, the address of {dialect.title}, as "
                f"http://HOST:PORT/v1"
            )
        if dialect.batches is None and info.data.get("mode") == "batch":
            raise ValueError(
                f"is {name!r}, which is {dialect.title} here, expected mode=sync: it has no batch "
                f"jobs in this protocol"
            )
        budget = info.data.get("thinking_tokens")
        if budget and dialect.thinking not in BUDGETED:
            raise ValueError(
                f"is {name!r}, which is {dialect.title} here, expected reasoning_effort in place "
                f"of thinking_tokens, a budget that it does not take"
            )
        if budget is not None and info.data.get("reasoning_effort") is not None:
            raise ValueError(
                f"is {name!r}, which is {dialect.title} here, expected either reasoning_effort or "
                f"thinking_tokens"
            )
        return name

    @field_validator("api_version")
    @classmethod
    def _has_address(cls, version: str | None, info: ValidationInfo) -> str | None:
        if version is not None and info.data.get("base_url") is None:
            raise ValueError(
                f"is {version[:80]!r}, expected base_url beside it, as "
                f"https://RESOURCE.openai.azure.com/openai/deployments/DEPLOYMENT"
            )
        return version


class AnthropicAnnotatorConfig(RemoteAnnotatorConfig):
    """Messages and Message Batches of Anthropic."""

    type: Literal["anthropic"] = Field(description="anthropic: Anthropic")
    prompt_cache: Changeable[bool] = Field(
        True,
        description="Have Anthropic cache what all prompts of a round share (cache_control), "
        "where it is long enough: later requests pay a tenth for it, the first ones a quarter more",
    )

    @field_validator("thinking_tokens")
    @classmethod
    def _budget_fits(cls, budget: int | None, info: ValidationInfo) -> int | None:
        model = info.data.get("model", "")
        if budget and refuses_temperature(model, None):
            raise ValueError(
                f"is {budget}, expected reasoning_effort in its place: {model} takes no budget of "
                f"thought"
            )
        most = info.data.get("max_output_tokens", 0)
        if budget and not LEAST_THOUGHT <= budget < most:
            raise ValueError(
                f"is {budget}, expected {LEAST_THOUGHT} or more and less than max_output_tokens, "
                f"which is {most}"
            )
        return budget


class MistralAnnotatorConfig(RemoteAnnotatorConfig):
    """Chat completions and batch jobs of Mistral."""

    type: Literal["mistral"] = Field(description="mistral: Mistral")

    @field_validator("thinking_tokens")
    @classmethod
    def _takes_no_budget(cls, budget: int | None) -> int | None:
        if budget:
            raise ValueError(f"is {budget}, expected reasoning_effort in its place, or 0")
        return budget


class GeminiAnnotatorConfig(RemoteAnnotatorConfig):
    """Single requests and batch jobs of Gemini."""

    type: Literal["gemini"] = Field(description="gemini: Gemini")

    @field_validator("thinking_tokens")
    @classmethod
    def _says_it_once(cls, budget: int | None, info: ValidationInfo) -> int | None:
        if budget is not None and info.data.get("reasoning_effort") is not None:
            raise ValueError(f"is {budget}, expected either reasoning_effort or thinking_tokens")
        return budget


class ModelAnnotatorConfig(LLMAnnotatorConfig):
    """A language model on our own workers."""

    type: Literal["model"] = Field(description="model: a model on the workers of the run")
    model: ModelConfig
    engine: EngineConfig = Field(default_factory=EngineConfig)
    price_per_label: Changeable[NonNegativeFloat] = Field(
        0.0, description="Dollars counted for an answer, as of device time"
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
