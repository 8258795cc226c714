"""Wire of chat completions: the client, bodies of requests, and what responses say.

https://platform.openai.com/docs/api-reference/chat, and how others speak it.
"""

from typing import Any, NamedTuple

from atgen_ray.annotation.providers.base import Finish, ParsedResponse
from atgen_ray.annotation.providers.reasoning import split_reasoning, write_thinking
from atgen_ray.annotation.providers.sdk import (
    client_settings,
    count_cached,
    measure_body,
    read_count,
    read_error,
)
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import RemoteAnnotatorConfig
from atgen_ray.config.dialects import DIALECTS, Dialect, is_own_address, wants_completion_limit
from atgen_ray.core.errors import UserError
from atgen_ray.core.schema import merge_trees

FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter"}


class ChatWire:
    """Code of all that speak chat completions: the client, bodies and answers."""

    name = "openai"

    def __init__(
        self,
        config: RemoteAnnotatorConfig,
        dialect: Dialect,
        run: str,
        key: str,
        api_version: str | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError(
                f'{key}.type is {self.name}, which needs `pip install "atgen-ray[openai]"`'
            ) from error
        self._sdk = openai
        self._config = config
        self._run = run
        self._dialect = dialect
        settings = client_settings(config, dialect.variable, key, dialect.url)
        self._client: Any = (
            openai.OpenAI(**settings)
            if api_version is None
            else openai.AzureOpenAI(api_version=api_version, **settings)
        )
        if not is_own_address(DIALECTS["openai"], config.base_url or dialect.url):
            # The SDK would tell any server of the account that the environment names.
            self._client.organization = None
            self._client.project = None

    def encode(self, request: AnnotationRequest) -> dict[str, Any]:
        """Return the body of a chat completion."""
        config = self._config
        dialect = self._dialect
        prompt = request.prompt
        turns = [{"role": "system", "content": prompt.system}]
        turns += [{"role": role, "content": text} for role, text in prompt.turns]
        limit = dialect.limit
        if limit == "by model":
            new = wants_completion_limit(config.model)
            limit = "max_completion_tokens" if new else "max_tokens"
        body = {
            "model": config.model,
            "messages": turns,
            limit: request.output_limit or config.max_output_tokens,
        }
        if config.sent_temperature is not None:
            body["temperature"] = config.sent_temperature
        if prompt.schema is not None:
            schema = {"name": "label", "schema": prompt.schema, "strict": True}
            body["response_format"] = (
                {"type": "json_schema", "json_schema": schema}
                if dialect.schema == "json_schema"
                else {"type": "json_object"}
            )
        body |= write_thinking(dialect.thinking, config.reasoning_effort, config.thinking_tokens)
        return merge_trees(body, config.extra_body)

    def measure(self, request: AnnotationRequest) -> int:
        return measure_body(self.encode(request))

    def read(self, body: dict[str, Any]) -> ParsedResponse:
        try:
            choice = body["choices"][0]
            message = choice["message"]
            content = message.get("content") or ""
            if isinstance(content, list):  # Mistral's servers return reasoning and text as parts
                parts = [part if isinstance(part, dict) else {} for part in content]
                content = "".join(
                    str(part.get("text") or "") for part in parts if part.get("type") == "text"
                )
            thought = split_reasoning(str(content))
            hidden = str(message.get("reasoning_content") or message.get("reasoning") or "")
            finish: Finish = (
                "refusal"
                if message.get("refusal")
                else FINISHES.get(str(choice.get("finish_reason")), "stop")
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        reasoning = "\n".join(filter(None, (hidden, thought.reasoning)))
        ending: Finish = "length" if thought.cut else finish
        return ParsedResponse(
            thought.answer, reasoning, ending, *read_usage(body), *count_cached(body)
        )


class Failure(NamedTuple):
    """An error within a response of status 200: the status that it should have had."""

    status: int
    code: str
    message: str


def find_failure(body: dict[str, Any]) -> Failure | None:
    """Return the error in a response of status 200 that has no answer, as routers of models send
    it; None where there is an answer, or no error.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error")
    if choice is not None:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or (isinstance(message, dict) and message.get("content")):
            return None
        error = choice.get("error") or error
    if not error or any(read_usage(body)):
        return None  # an error after billed tokens is an answer, if a bad one
    code, message = read_error({"error": error})
    number = error.get("code") if isinstance(error, dict) else None
    status = int(str(number)) if str(number).isdecimal() else 0
    status = status if 400 <= status < 600 else 502
    return Failure(status, code, message or "status 200 with an error and no answer")


def read_usage(body: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the prompt and output tokens of a response; None where its usage does not say them.

    Some servers leave reasoning out of the tokens of the completion: the total has it.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None, None
    prompt = read_count(usage.get("prompt_tokens"))
    output = read_count(usage.get("completion_tokens"))
    total = read_count(usage.get("total_tokens"))
    details = usage.get("completion_tokens_details")
    thought = read_count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if total is not None and prompt is None and output is not None:
        prompt = max(0, total - output)
    elif total is not None and prompt is not None:
        output = max(output or 0, total - prompt)
    elif output is not None and (thought or 0) > output:
        output += thought or 0
    return prompt, output
