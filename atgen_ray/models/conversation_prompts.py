"""Prompts of conversations: by the model's chat template with its section of tools, and where in
them the answers of earlier turns stand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jinja2

from atgen_ray.models.chat_template import (
    PROBE,
    Turns,
    break_special_tokens,
    render_turns,
    takes_system,
)
from atgen_ray.models.tool_prompts import fit_tools, has_tools, write_call
from atgen_ray.text.conversation import Conversation, Turn
from atgen_ray.text.tool_calls import split_calls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # of characters


@dataclass(frozen=True)
class Rendering:
    """Messages that the chat template takes.

    Attributes:
        whole: whether they are the turns as they are, rather than joined ones.
    """

    messages: Turns
    tools: list[dict[str, Any]] | None
    whole: bool


class ConversationPrompts:
    """Renders conversations in a tokenizer's chat template.

    The system turn of a conversation takes the place of `system`. A template that refuses the
    turns, as one whose roles must alternate, gets those of one side joined; or else all of them as
    one question.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        system: str | None,
        shots: Turns,
        special: Sequence[str],
    ) -> None:
        """`shots` are the turns of solved examples; `special` the spellings of control tokens."""
        self._tokenizer = tokenizer
        self._system = system
        self._shots = shots
        self._special = [*special]

    def render(self, conversation: Conversation) -> str:
        """Return the prompt up to where the answer begins."""
        return self._write(self._arrange(conversation))

    def write_answer(self, conversation: Conversation, answer: str) -> str | None:
        """Return an answer with calls of the conversation's tools as the model is to write it, by
        its template or else in Hermes' form; None for an answer without calls.
        """
        content, calls = split_calls(answer, conversation.tool_names, beside_text=True)
        if not calls:
            return None
        ids = tuple(f"call{at:05}" for at in range(len(calls)))
        message = self._guard(Turn("assistant", content, tuple(calls), ids).to_message())
        arranged = self._arrange(conversation)
        if arranged.whole and has_tools(self._tokenizer, conversation.tools):
            prompt = self._write(arranged)
            solved = self._write(arranged, message)
            if solved is not None and solved.startswith(prompt):
                return self._cut_end(solved.removeprefix(prompt))
        written = [
            write_call(call["function"]["name"], call["function"]["arguments"])
            for call in message["tool_calls"]
        ]
        return "\n".join([*filter(None, [message["content"]]), *written])

    def find_answers(self, conversation: Conversation) -> tuple[list[Span], bool]:
        """Return where in the prompt the assistant's learned turns stand, each with the token that
        ends it, and whether all of them were found.
        """
        learned = [turn.learned for turn in conversation.turns if turn.role == "assistant"]
        arranged = self._arrange(conversation)
        if not any(learned):
            return [], True
        if not arranged.whole:
            return [], False
        places = [at for at, each in enumerate(arranged.messages) if each["role"] == "assistant"][
            -len(learned) :
        ]
        spans = [
            self._find(arranged, at) for at, wanted in zip(places, learned, strict=True) if wanted
        ]
        return [span for span in spans if span is not None], None not in spans

    def _find(self, arranged: Rendering, at: int) -> Span | None:
        """Return where the message at `at` stands: what changes when its text is another."""
        probe = {"role": "assistant", "content": PROBE}
        other = replace(
            arranged, messages=[*arranged.messages[:at], probe, *arranged.messages[at + 1 :]]
        )
        try:
            prompt, changed = self._write(arranged), self._write(other)
        except (jinja2.TemplateError, ValueError):
            return None
        before, found, after = changed.partition(PROBE)
        if not prompt.startswith(before.rstrip(" ")) or not prompt.endswith(after) or not found:
            return None
        # Some families write a space before a text, and none before a call.
        start = len(before.rstrip(" ")) if not prompt.startswith(before) else len(before)
        end = len(prompt) - len(after)
        stop = next((each for each in self._special if each and after.startswith(each)), "")
        return (start, end + len(stop)) if start <= end else None

    def _arrange(self, conversation: Conversation) -> Rendering:
        """Return the messages of a conversation as the template takes them."""
        messages = [self._guard(message) for message in conversation.messages]
        if messages[0]["role"] != "system" and self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        tools = [self._guard(tool) for tool in conversation.tools]
        fitted, section = fit_tools(self._tokenizer, messages, tools)
        first = 1 if fitted[0]["role"] == "system" else 0
        fitted = [*fitted[:first], *self._shots, *fitted[first:]]
        if first and not self._takes_system:
            fitted = _fold(fitted)
        text = break_special_tokens(conversation.show(), self._special)
        choices = (
            Rendering(fitted, section, True),
            Rendering(_alternate(fitted), section, False),
            Rendering([{"role": "user", "content": text}], None, False),
        )
        return next((each for each in choices if self._takes(each)), choices[-1])

    @cached_property
    def _takes_system(self) -> bool:
        return takes_system(self._tokenizer)

    def _takes(self, rendering: Rendering) -> bool:
        try:
            self._write(rendering)
        except (jinja2.TemplateError, ValueError, TypeError):
            return False
        return True

    def _write(self, rendering: Rendering, answer: dict[str, Any] | None = None) -> str:
        turns = [*rendering.messages, *([answer] if answer else [])]
        return render_turns(self._tokenizer, turns, answer is None, rendering.tools)

    def _cut_end(self, answer: str) -> str:
        """Return a rendered answer up to the control token that ends it."""
        ends = [answer.rfind(each) for each in self._special if each]
        last = max((at for at in ends if at > 0), default=len(answer))
        return answer[:last].rstrip()

    def _guard(self, value: Any) -> Any:
        """Return a JSON value whose texts spell no control token."""
        if isinstance(value, str):
            return break_special_tokens(value, self._special)
        if isinstance(value, dict):
            return {self._guard(key): self._guard(each) for key, each in value.items()}
        return [self._guard(each) for each in value] if isinstance(value, list) else value


def shorten(conversation: Conversation, fits: Callable[[Conversation], bool]) -> Conversation:
    """Return as much of a conversation as fits: first without its oldest turns, up to the user's
    last; then with each turn cut at its end. System turns stay whole.
    """
    first = next(at for at, turn in enumerate(conversation.turns) if turn.role != "system")
    system, spoken = conversation.turns[:first], conversation.turns[first:]
    starts = [at for at, turn in enumerate(spoken) if turn.role == "user"] or [0]
    parts = [replace(conversation, turns=(*system, *spoken[start:])) for start in starts]
    # Fewer turns are never longer: the first part that fits.
    low, high = 0, len(parts) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(parts[middle]) else (middle + 1, high)
    part = parts[low]
    if fits(part):
        return part
    few, many = 0, max(len(turn.content) for turn in part.turns)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if fits(_cut(part, middle)) else (few, middle)
    return _cut(part, few)


def _cut(conversation: Conversation, characters: int) -> Conversation:
    turns = [
        turn if turn.role == "system" else replace(turn, content=turn.content[:characters])
        for turn in conversation.turns
    ]
    return replace(conversation, turns=tuple(turns))


def _fold(messages: Turns) -> Turns:
    """Return the messages with the system turn as the beginning of the user's first."""
    system, *rest = messages
    at = next((at for at, each in enumerate(rest) if each["role"] == "user"), None)
    if at is None:
        return [{"role": "user", "content": system["content"]}, *rest]
    asked = rest[at] | {"content": f"{system['content']}\n\n{rest[at]['content']}"}
    return [*rest[:at], asked, *rest[at + 1 :]]


def _alternate(messages: Turns) -> Turns:
    """Return the messages with neighbours of one role joined."""
    joined: Turns = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is None or last["role"] != message["role"] or "tool_calls" in last | message:
            joined.append(message)
        else:
            joined[-1] = last | {"content": f"{last['content']}\n\n{message['content']}"}
    return joined
