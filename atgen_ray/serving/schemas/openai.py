"""Requests of the OpenAI API that every engine here answers: chat, completions and embeddings.

https://platform.openai.com/docs/api-reference. A parameter that is not listed is an error; it is
never ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.schemas.select import Text, Word

MOST_CHOICES = 8
MOST_TOP_LOGPROBS = 20


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False


class GenerationBody(Body):
    """Parameters that chat and completions share."""

    model: Word
    max_tokens: Annotated[int, Field(ge=1, le=2**20)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop: Word | list[Word] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Word | None = Field(None, description="Accepted and not used")

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: Any) -> Any:
        if isinstance(stop, list) and len(stop) > 4:
            raise ValueError("expected at most 4 texts")
        return stop

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "GenerationBody":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given, expected stream=true beside it")
        return self

    @property
    def stops(self) -> list[str]:
        """Return the texts that end the output."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: Word | None = None

    @property
    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**20)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _top_of_logprobs(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is given, expected logprobs=true beside it")
        return self


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] = False

    @property
    def prompts(self) -> list[str]:
        """Return the texts to continue, at least one."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class EmbeddingBody(Body):
    """Body of POST /v1/embeddings."""

    model: Word
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    user: Word | None = Field(None, description="Accepted and not used")

    @property
    def texts(self) -> list[str]:
        """Return the texts to embed, at least one."""
        return [self.input] if isinstance(self.input, str) else self.input
