"""Responses of the OpenAI API made from generated tokens, whole or as a stream, for engines that
give tokens only.
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.engines.base import TokenStep
from atgen_ray.serving.schemas.openai import ChatBody, CompletionBody

Decoder = Callable[[Sequence[int]], str]
Steps = AsyncIterator[TokenStep]


@dataclass
class Choice:
    """One choice of a response: its tokens, and the text that later tokens cannot change."""

    index: int
    prompt_tokens: int
    decode: Decoder
    stops: list[str]
    stop_ids: Sequence[int]
    steps: list[TokenStep] = field(default_factory=list)
    text: str = ""  # that later tokens cannot change
    sent: int = 0  # characters of `text` that were streamed
    sent_steps: int = 0
    finish: str | None = None

    def add(self, step: TokenStep, look: bool = True) -> None:
        """Add a token, and set `finish` if the text ends with it. Without `look` the text is not
        brought up to date, which saves decoding it.
        """
        self.steps.append(step)
        if not (look or self.stops or step.finish):
            return
        whole = self.decode([each.token for each in self.steps if each.token not in self.stop_ids])
        found = [at for at in (whole.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.text = whole[: min(found)]
            self.finish = "stop"
            return
        self.finish = step.finish
        self.text = whole if self.finish else _certain(whole, self.stops)

    def take_unsent(self) -> str:
        """Return the text that was not streamed yet, and count it as streamed."""
        unsent = self.text[self.sent :]
        self.sent = max(self.sent, len(self.text))
        return unsent


class Answer:
    """Response to one request with all its choices."""

    def __init__(
        self,
        body: ChatBody | CompletionBody,
        choices: list[Choice],
        fingerprint: str,
        stream_interval: int = 1,
    ) -> None:
        """Prepare the response to `body` with these choices.

        Args:
            fingerprint: the `system_fingerprint` of the response.
            stream_interval: tokens in one event of a stream, after a first event of one token.
        """
        self._body = body
        self._choices = choices
        self._interval = stream_interval
        self._chat = isinstance(body, ChatBody)
        kind = "chat.completion" if self._chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": fingerprint,
        }

    def whole(self) -> dict[str, Any]:
        """Return the whole response, once all choices have ended."""
        choices = [self._show(choice, choice.text, choice.steps) for choice in self._choices]
        return self._head | {"choices": choices, "usage": self._usage()}

    async def stream(
        self, events: AsyncIterator[tuple[int, TokenStep]]
    ) -> AsyncGenerator[str, None]:
        """Yield server-sent events; `events` are the steps of all choices by index, as they come.

        Nothing is sent before the first token: until then an error can still be the status of the
        response.
        """
        roles = self._choices if self._chat else []
        if self._chat:
            self._head["object"] = "chat.completion.chunk"
        async for index, step in events:
            for each in roles:
                yield self._event(
                    [{"index": each.index, "delta": {"role": "assistant"}, "finish_reason": None}]
                )
            roles = []  # each choice announces its role once, before its first text
            choice = self._choices[index]
            if choice.finish is not None:
                continue
            unsent = len(choice.steps) + 1 - choice.sent_steps
            due = not choice.sent_steps or unsent >= self._interval
            choice.add(step, look=due)
            text = choice.take_unsent() if due or choice.finish else ""
            if text or choice.finish:
                steps = choice.steps[choice.sent_steps :]
                choice.sent_steps = len(choice.steps)
                yield self._event([self._show(choice, text, steps, streamed=True)])
        if self._body.stream_options and self._body.stream_options.include_usage:
            yield f"data: {json.dumps(self._head | {'choices': [], 'usage': self._usage()})}\n\n"
        yield "data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]]) -> str:
        return f"data: {json.dumps(self._head | {'choices': choices})}\n\n"

    def _show(
        self, choice: Choice, text: str, steps: list[TokenStep], streamed: bool = False
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"index": choice.index, "finish_reason": choice.finish}
        if isinstance(self._body, ChatBody):
            shown["delta" if streamed else "message"] = {"role": "assistant", "content": text}
            shown["logprobs"] = _chat_logprobs(choice, steps) if self._body.logprobs else None
        else:
            shown["text"] = text
            shown["logprobs"] = (
                _completion_logprobs(choice, steps) if self._body.logprobs is not None else None
            )
        return shown

    def _usage(self) -> dict[str, int]:
        # The choices of one prompt share its tokens, which are counted once.
        count = self._body.n
        prompt = sum(choice.prompt_tokens for choice in self._choices[::count])
        completion = sum(len(choice.steps) for choice in self._choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def _certain(text: str, stops: list[str]) -> str:
    """Return `text` without an end that later tokens may change: half a character, or the beginning
    of a stop text.
    """
    certain = text.rstrip("\ufffd")
    held = max(
        (size for stop in stops for size in range(1, len(stop)) if certain.endswith(stop[:size])),
        default=0,
    )
    return certain[: len(certain) - held]


def _chat_logprobs(choice: Choice, steps: list[TokenStep]) -> dict[str, Any]:
    def show(token: int, logprob: float) -> dict[str, Any]:
        text = choice.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = []
    for step in steps:
        entry = show(step.token, step.logprob)
        entry["top_logprobs"] = [show(token, logprob) for token, logprob in step.top]
        content.append(entry)
    return {"content": content, "refusal": None}


def _completion_logprobs(choice: Choice, steps: list[TokenStep]) -> dict[str, Any]:
    tokens = [choice.decode([step.token]) for step in steps]
    before = len(choice.steps) - len(steps)
    at = len(choice.decode([step.token for step in choice.steps[:before]]))
    offsets = [at + sum(map(len, tokens[:index])) for index in range(len(tokens))]
    return {
        "tokens": tokens,
        "token_logprobs": [step.logprob for step in steps],
        "top_logprobs": [
            {choice.decode([token]): logprob for token, logprob in step.top} for step in steps
        ],
        "text_offset": offsets,
    }
