"""Body of POST /v1/responses, and the chat that it asks for.

https://platform.openai.com/docs/api-reference/responses. Nothing is stored: a request has all its
turns in `input`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from atgen_ray.core.errors import nearest
from atgen_ray.serving.schemas.body import Body, Tree
from atgen_ray.serving.schemas.chat import MOST_MESSAGES, MOST_TOOLS, ChatBody, Name
from atgen_ray.serving.schemas.openai import MOST_TOKENS, Ignored, SharedBody
from atgen_ray.serving.schemas.select import Text, Word

TEXTS = ("input_text", "output_text", "text", "refusal")
ITEMS = ("message", "function_call", "function_call_output")


class TextPart(Body):
    """A part of a message; a refusal is a text too."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: Text = ""
    refusal: Text = ""
    annotations: Ignored = None
    logprobs: Ignored = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind not in TEXTS:
            raise ValueError(
                f"a part of type {kind[:40]!r}, expected input_text: the model reads no other"
            )
        return given


class Item(Body):
    """A turn, a call of a tool, or what a tool said; also as an earlier response gave it."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | list[TextPart] | None = None
    call_id: Word | None = None
    name: Name | None = None
    arguments: Text | None = None
    output: Text | list[TextPart] | None = None
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None

    @model_validator(mode="before")
    @classmethod
    def _only_these(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind not in ITEMS:
            raise ValueError(f"an item of type {kind[:40]!r}{nearest(kind, ITEMS)}")
        # Clients hand back what they were told, with null for what an item has not.
        return (
            {key: value for key, value in given.items() if value is not None}
            if isinstance(given, dict)
            else given
        )

    @model_validator(mode="after")
    def _is_whole(self) -> "Item":
        wanted = {
            "message": ("role", "content"),
            "function_call": ("call_id", "name", "arguments"),
            "function_call_output": ("call_id", "output"),
        }[self.type]
        for key in wanted:
            if getattr(self, key) is None:
                raise ValueError(f"an item of type {self.type} has no {key}, expected one")
        return self


class ResponseFunction(Body):
    """A function that the model may call; `parameters` is the JSON Schema of its arguments."""

    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: Tree | None = None
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind != "function":
            raise ValueError(
                f"a tool of type {kind[:40]!r}, expected function: this service has no tools of "
                f"its own"
            )
        return given


class NamedFunctionTool(Body):
    """The function that the model must call."""

    type: Literal["function"]
    name: Name


class TextBody(Body):
    """The form of the answer."""

    format: Tree | None = None
    verbosity: Ignored = None


class ResponsesBody(SharedBody):
    """Body of POST /v1/responses."""

    IGNORED = (
        *(name for name in SharedBody.IGNORED if name != "metadata"),
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning",
        "truncation",
        "include",
        "stream_options",
    )

    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: Text | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_output_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    tools: Annotated[list[ResponseFunction], Field(max_length=MOST_TOOLS)] = Field(
        default_factory=list
    )
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionTool = "auto"
    parallel_tool_calls: bool = True
    text: TextBody | None = None
    stream: bool = False
    background: Literal[False] = Field(False, description="Expected false; batches are for that")
    store: Ignored = Field(None, description="Accepted and not used: nothing is stored")
    service_tier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning: Ignored = None
    truncation: Ignored = None
    include: Ignored = None
    stream_options: Ignored = None
    previous_response_id: Ignored = Field(None, description="Refused: nothing is stored")
    conversation: Ignored = Field(None, description="Refused: nothing is stored")

    @model_validator(mode="after")
    def _nothing_is_stored(self) -> "ResponsesBody":
        for key in ("previous_response_id", "conversation"):
            if key in self.model_fields_set:
                raise ValueError(
                    f"{key} is given, expected the earlier turns in input: this service stores no "
                    f"responses"
                )
        return self

    def to_chat(self) -> ChatBody:
        """Return the chat that gives this response; raises ValidationError."""
        turns = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            turns.append({"role": "user", "content": self.input})
        else:
            turns += _read_items(self.input)
        tools = [tool.model_dump(mode="json", exclude_none=True) for tool in self.tools]
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": turns,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_completion_tokens": self.max_output_tokens,
            "tools": [{"type": tool.pop("type"), "function": {**tool}} for tool in tools],
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _read_format(self.text.format if self.text else None),
            "stream": self.stream,
            "stream_options": {"include_usage": True} if self.stream else None,
        }
        choice = self.tool_choice
        if isinstance(choice, NamedFunctionTool):
            asked["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif self.tools:
            asked["tool_choice"] = choice
        return ChatBody.model_validate(asked)


def _read_items(items: list[Item]) -> list[dict[str, Any]]:
    """Return the turns of a conversation; the calls of one answer are a turn."""
    turns: list[dict[str, Any]] = []
    for item in items:
        if item.type == "message":
            turns.append({"role": item.role, "content": _join(item.content)})
        elif item.type == "function_call_output":
            content = _join(item.output)
            turns.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
        else:
            function = {"name": item.name, "arguments": item.arguments}
            called = {"id": item.call_id, "type": "function", "function": function}
            if not turns or turns[-1]["role"] != "assistant":
                turns.append({"role": "assistant", "content": None})
            turns[-1].setdefault("tool_calls", []).append(called)
    return turns


def _join(content: str | list[TextPart] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text or part.refusal for part in content)
    return content or ""


def _read_format(format: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return `text.format` as chats have it: there the schema is a level deeper."""
    if format is None or format.get("type") != "json_schema":
        return format
    return {
        "type": "json_schema",
        "json_schema": {key: value for key, value in format.items() if key != "type"},
    }
