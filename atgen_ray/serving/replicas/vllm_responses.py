"""Responses of vLLM's OpenAI layer, with the names of models that callers know."""

import json
from typing import Any

from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest, ErrorResponse

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.chat_prompts import prepare_chat
from atgen_ray.serving.replicas.tool_calls import CallReader
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody

# Parameters that are answered for here rather than by vLLM, beside those that nobody uses.
OURS = (
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "modalities",
    "stream_options",
    "best_of",
    "suffix",
)


class VLLMAnswer:
    """One request and its response so far. `tokens` also counts those of a stream that the caller
    left.
    """

    def __init__(
        self,
        body: ChatBody | CompletionBody,
        served: str,
        origin: str,
        tokenizer: Any,
        tuned: bool = False,
    ) -> None:
        """Prepare the response to `body`.

        Args:
            served: vLLM's name for the model with the caller's adapter.
            origin: the `system_fingerprint` of the response.
            tokenizer: that of the model, with its chat template.
            tuned: whether a model with an adapter answers; see `render_chat`.
        """
        self._tuned = tuned
        self._body = body
        self._tokenizer = tokenizer
        self._calls = CallReader(body) if isinstance(body, ChatBody) and body.offered else None
        self._served = served
        self._head = {"model": body.model, "system_fingerprint": origin}
        self._wants_usage = body.stream_options is not None and body.stream_options.include_usage
        self._tokens: dict[int, int] = {}  # by choice

    @property
    def tokens(self) -> int:
        """Return the number of tokens generated."""
        return sum(self._tokens.values())

    def request(self) -> ChatCompletionRequest | CompletionRequest:
        """Return the request in vLLM's form. Every event of a stream carries the number of tokens,
        by which they are counted.
        """
        settings = self._body.model_dump(
            exclude_none=True, exclude={*self._body.IGNORED, *OURS}
        ) | {"model": self._served}
        if isinstance(self._body, ChatBody):
            settings |= self._conversation(self._body)
        if self._body.stream:
            settings |= {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        kind = ChatCompletionRequest if isinstance(self._body, ChatBody) else CompletionRequest
        return kind(**settings)

    def _conversation(self, body: ChatBody) -> dict[str, Any]:
        """Return the messages, tools and form of the answer. vLLM puts the tools into the prompt
        and reads no calls: it has a parser for each family of models, which somebody must choose.
        """
        turns, tools = prepare_chat(self._tokenizer, body)
        settings: dict[str, Any] = {"messages": turns}
        if self._tuned:
            settings["chat_template_kwargs"] = {"enable_thinking": False}
        if tools:
            settings |= {"tools": tools, "tool_choice": "none"}
        if (schema := body.answer_schema) is not None:
            wanted = {"name": "answer", "schema": schema}
            settings["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return settings

    def show(self, item: Any) -> str | dict[str, Any] | None:
        """Return the response, or a server-sent event of it; None for one that the caller did not
        ask for.

        Raises:
            ApiError: vLLM refuses the request.
        """
        if isinstance(item, ErrorResponse):
            raise ApiError(int(item.error.code or 400), item.error.message)
        if not isinstance(item, str):
            answer: dict[str, Any] = item.model_dump(mode="json")
            self._tokens[0] = answer["usage"]["completion_tokens"]
            if self._calls is not None:
                self._calls.read(answer["choices"])
            return answer | self._head
        text = item.removeprefix("data: ").strip()
        return item if text == "[DONE]" else self._show_event(json.loads(text))

    def _show_event(self, event: dict[str, Any]) -> str | None:
        choices = event.get("choices")
        if choices is None:  # an error on the way
            return f"data: {json.dumps(event)}\n\n"
        if not choices and not self._wants_usage:
            return None
        if choices and (usage := event.pop("usage", None)):
            self._tokens |= {choice["index"]: usage["completion_tokens"] for choice in choices}
        if self._calls is not None:
            self._calls.hold_back(choices)
        return f"data: {json.dumps(event | self._head)}\n\n"
