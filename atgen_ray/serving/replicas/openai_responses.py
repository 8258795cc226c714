"""Responses of the OpenAI API made from generated tokens, whole or as a stream, for engines that
give tokens only.
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.engines.base import TokenStep
from atgen_ray.serving.replicas.openai_logprobs import (
    Decoder,
    chat_logprobs,
    completion_logprobs,
)
from atgen_ray.serving.replicas.tool_calls import CallReader
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody

Steps = AsyncIterator[TokenStep]


@dataclass
class Choice:
    """One choice of a response: its tokens, and the text that later tokens cannot change. `echo`
    is the prompt that its text begins with; `bare` has no token beyond it.
    """

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
    echo: Sequence[int] = ()
    bare: bool = False

    def add(self, step: TokenStep, look: bool = True) -> None:
        """Add a token, and set `finish` if the text ends with it. Without `look` the text is not
        brought up to date, which saves decoding it.
        """
        self.steps.append(step)
        if self.bare:
            self.finish = "length"
            return
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
        self._calls = CallReader(body) if isinstance(body, ChatBody) and body.offered else None
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
            if self._calls is not None and not choice.finish:
                continue  # only the whole text tells whether it is a call
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
            message = self._message(choice, text, streamed)
            shown["delta" if streamed else "message"] = message
            if message.get("tool_calls"):
                shown["finish_reason"] = "tool_calls"
            shown["logprobs"] = chat_logprobs(choice.decode, steps) if self._body.logprobs else None
            return shown
        begins = steps[:1] == choice.steps[:1]
        shown["text"] = (choice.decode(choice.echo) if choice.echo and begins else "") + text
        shown["logprobs"] = (
            _completion_logprobs(choice, steps, begins) if self._body.logprobs is not None else None
        )
        return shown

    def _message(self, choice: Choice, text: str, streamed: bool) -> dict[str, Any]:
        if self._calls is None or not choice.finish:
            return {"role": "assistant", "content": text}
        return self._calls.message(text, streamed)

    def _usage(self) -> dict[str, int]:
        # The choices of one prompt share its tokens, which are counted once.
        count = self._body.n
        prompt = sum(choice.prompt_tokens for choice in self._choices[::count])
        completion = sum(len(choice.steps) for choice in self._choices if not choice.bare)
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


def _completion_logprobs(choice: Choice, steps: list[TokenStep], begins: bool) -> dict[str, Any]:
    """Return the log-probabilities of `steps`; those of the echoed prompt come before the first."""
    before = len(choice.steps) - len(steps)
    at = len(choice.decode([*choice.echo, *(step.token for step in choice.steps[:before])]))
    if not (choice.echo and begins):
        return completion_logprobs(choice.decode, steps, None, at)
    shown = [*choice.steps[0].prompt, *([] if choice.bare else steps)]
    return completion_logprobs(choice.decode, shown, choice.echo[0], 0)
