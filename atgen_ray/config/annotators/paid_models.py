"""Sections of the configuration for annotating models that are paid for, by provider."""

import re
from typing import Literal

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from atgen_ray.config.annotators.language_models import LLMAnnotatorConfig
from atgen_ray.config.dialects import (
    BUDGETED,
    DialectName,
    find_dialect,
    refuses_temperature,
)
from atgen_ray.core.schema import Changeable, Fraction, Section


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
