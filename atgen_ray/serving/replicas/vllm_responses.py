"""Responses of vLLM's OpenAI layer, with the names of models that callers know."""

import json
from typing import Any

from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest, ErrorResponse

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.schemas.openai import ChatBody, CompletionBody


class VLLMAnswer:
    """One request and its response so far. `tokens` also counts those of a stream that the caller
    left.
    """

    def __init__(self, body: ChatBody | CompletionBody, served: str, origin: str) -> None:
        """Prepare the response to `body`.

        Args:
            served: vLLM's name for the model with the caller's adapter.
            origin: the `system_fingerprint` of the response.
        """
        self._body = body
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
        settings = self._body.model_dump(exclude_none=True, exclude={"user", "echo"}) | {
            "model": self._served
        }
        if self._body.stream:
            settings |= {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        kind = ChatCompletionRequest if isinstance(self._body, ChatBody) else CompletionRequest
        return kind(**settings)

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
        return f"data: {json.dumps(event | self._head)}\n\n"
