"""Requests of the OpenAI API that every engine here answers: completions and embeddings, and what
chat (`schemas/chat.py`) shares with them.

https://platform.openai.com/docs/api-reference. A parameter is honoured, or it is in `IGNORED`:
clients send it by default and no answer would be another with it. The response then names it in
the header `X-Atgen-Ignored`. Any other is an error, and so is a value that cannot be honoured.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.schemas.select import Text, Word

MOST_CHOICES = 8
MOST_STOPS = 16
MOST_TOP_LOGPROBS = 20
MOST_PROMPTS = 64
MOST_TOKENS = 2**20
MOST_BIASES = 1024
IGNORED_HEADER = "X-Atgen-Ignored"

Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Ignored = Annotated[JsonValue, Field(description="Accepted and not used")]


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Ignored = None
    continuous_usage_stats: Ignored = None


class SharedBody(Body):
    """Parameters of every request for a model, of which some are taken and not used."""

    IGNORED: ClassVar[tuple[str, ...]] = ("user", "safety_identifier", "metadata", "priority")

    model: Word
    user: Ignored = None
    safety_identifier: Ignored = None
    metadata: Ignored = None
    priority: Ignored = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, given: Any) -> Any:
        """Clients send null for what they leave to the service."""
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None}

    @property
    def ignored(self) -> list[str]:
        """Return the parameters that were given and are not used."""
        return [name for name in self.IGNORED if name in self.model_fields_set]


class GenerationBody(SharedBody):
    """Parameters that chat and completions share."""

    IGNORED = (
        *SharedBody.IGNORED,
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
    )

    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=MOST_TOKENS)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Word | list[Word] | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=MOST_STOPS)] = Field(
        default_factory=list
    )
    ignore_eos: bool = False
    min_tokens: Count = 0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] = Field(
        1.0, description="Expected 1; frequency_penalty and presence_penalty are honoured"
    )
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MOST_BIASES)
    ] = Field(default_factory=dict)
    stream: bool = False
    stream_options: StreamOptions | None = None
    store: Ignored = None
    service_tier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    request_id: Ignored = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: Any) -> Any:
        if isinstance(stop, list) and len(stop) > MOST_STOPS:
            raise ValueError(f"expected at most {MOST_STOPS} texts")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _biases_of_tokens(cls, biases: dict[str, float]) -> dict[str, float]:
        for token in biases:
            if not (token.isascii() and token.isdigit() and len(token) <= 10):
                raise ValueError(f"{token[:40]!r} is no token id, expected a whole number as text")
        return biases

    @property
    def ignored(self) -> list[str]:
        """Return the parameters that were given and are not used; options of a stream where there
        is none are of no use.
        """
        named = super().ignored
        return named + (["stream_options"] if self.stream_options and not self.stream else [])

    @property
    def stops(self) -> list[str]:
        """Return the texts that end the output."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def biases(self) -> dict[int, float]:
        """Return what is added to the logits, by token."""
        return {int(token): bias for token, bias in self.logit_bias.items()}

    @property
    def most_tokens(self) -> int | None:
        """Return how many tokens an output may have; None leaves it to the service."""
        return self.max_tokens


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[Token], Field(min_length=1, max_length=MOST_TOKENS)]
        | Annotated[
            list[Annotated[list[Token], Field(min_length=1, max_length=MOST_TOKENS)]],
            Field(min_length=1, max_length=MOST_PROMPTS),
        ]
    )
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    suffix: Literal[""] | None = Field(None, description="Expected no text: nothing is filled in")

    @model_validator(mode="after")
    def _can_be_honoured(self) -> "CompletionBody":
        if self.best_of not in (None, self.n):
            raise ValueError(
                f"best_of is {self.best_of}, expected n, which is {self.n}: nothing is left out"
            )
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0, expected echo=true beside it, or at least 1")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the texts to continue, or their token ids, at least one."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return list(prompt)


class EmbeddingBody(SharedBody):
    """Body of POST /v1/embeddings."""

    IGNORED = (*SharedBody.IGNORED, "truncate_prompt_tokens")

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    truncate_prompt_tokens: Ignored = None

    @property
    def texts(self) -> list[str]:
        """Return the texts to embed, at least one."""
        return [self.input] if isinstance(self.input, str) else self.input
