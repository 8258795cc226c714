"""Body of POST /v1/chat/completions: messages, tools and formats of the answer."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from atgen_ray.core.errors import nearest
from atgen_ray.serving.schemas.body import Body, Tree
from atgen_ray.serving.schemas.openai import (
    MOST_TOKENS,
    MOST_TOP_LOGPROBS,
    GenerationBody,
    Ignored,
)
from atgen_ray.serving.schemas.select import Text, Word

MOST_MESSAGES = 1000
MOST_TOOLS = 128

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Part(Body):
    """A part of a message: text, or why an assistant refused."""

    type: Literal["text", "refusal"]
    text: Text = ""
    refusal: Text = ""
    cache_control: Ignored = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind not in ("text", "refusal"):
            raise ValueError(
                f"a part of type {kind[:40]!r}, expected text: the model reads no other"
            )
        return given


class FunctionCall(Body):
    """What an assistant called; `arguments` is JSON text."""

    name: Name
    arguments: Text


class ToolCall(Body):
    """A call of a tool in a conversation."""

    id: Word
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Ignored = None


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None
    name: Word | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_call_id: Word | None = None
    # What the clients hand back of an earlier answer.
    refusal: Text | None = None
    audio: None = None
    function_call: None = None
    annotations: Ignored = None

    @model_validator(mode="after")
    def _say_something(self) -> "Message":
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise ValueError(f"a message of role {self.role} has no content, expected text")
        return self

    @property
    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text or part.refusal for part in self.content)
        return self.content or self.refusal or ""


def _no_parameters() -> dict[str, JsonValue]:
    return {"type": "object", "properties": {}}


class Function(Body):
    """A function that the model may call; `parameters` is the JSON Schema of its arguments."""

    name: Name
    description: Text = ""
    parameters: Tree = Field(default_factory=_no_parameters)
    strict: bool | None = Field(None, description="Honoured where the call is required")


class Tool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: Name


class NamedTool(Body):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    """A JSON Schema that the answer is to follow."""

    name: Name = "answer"
    description: Text = ""
    schema_: Tree = Field(default_factory=_no_parameters, alias="schema")
    strict: bool | None = Field(None, description="Every schema is followed strictly")

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, given: Any) -> Any:  # as in Body, which does not know aliases
        known = ("name", "description", "schema", "strict")
        for key in given if isinstance(given, dict) else ():
            if key not in known:
                raise ValueError(f"{str(key)[:80]!r} is unknown here{nearest(str(key), known)}")
        return given


class ResponseFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_of_the_type(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is expected beside type json_schema, and there alone")
        return self


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    IGNORED = (
        *GenerationBody.IGNORED,
        "reasoning_effort",
        "verbosity",
        "prediction",
        "include_reasoning",
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True
    modalities: list[Literal["text"]] = Field(default_factory=list)
    reasoning_effort: Ignored = None
    verbosity: Ignored = None
    prediction: Ignored = None
    include_reasoning: Ignored = None
    audio: None = None
    functions: None = Field(None, description="Replaced by tools")
    function_call: None = Field(None, description="Replaced by tool_choice")

    @field_validator("tools")
    @classmethod
    def _distinct_names(cls, tools: list[Tool]) -> list[Tool]:
        names = [tool.function.name for tool in tools]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name, expected a name for each")
        return tools

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is given, expected logprobs=true beside it")
        names = [tool.function.name for tool in self.tools]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            name = self.tool_choice.function.name
            raise ValueError(f"tool_choice names {name!r}{nearest(name, names)}")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, expected tools beside it")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Return how many tokens an output may have; None leaves it to the service."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def offered(self) -> list[Tool]:
        """Return the tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools

    @property
    def must_call(self) -> list[Tool]:
        """Return the tools of which the model must call one; empty where it may answer in text."""
        if isinstance(self.tool_choice, NamedTool):
            named = self.tool_choice.function.name
            return [tool for tool in self.tools if tool.function.name == named]
        return self.tools if self.tool_choice == "required" else []

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """Return the JSON Schema that the output must follow, if there is one."""
        if self.must_call:
            calls = [_call_schema(tool.function) for tool in self.must_call]
            return calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self.response_format is None or self.response_format.type == "text":
            return None
        wanted = self.response_format.json_schema
        return dict(wanted.schema_) if wanted is not None else {"type": "object"}


def _call_schema(function: Function) -> dict[str, JsonValue]:
    # References in the schema of the arguments count from its root, which is now another.
    arguments = dict(function.parameters)
    kept: dict[str, JsonValue] = {
        key: arguments.pop(key) for key in ("$defs", "definitions") if key in arguments
    }
    call: dict[str, JsonValue] = {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    return call | kept
