"""A model's reasoning: how servers are told to think more, less or not at all, and how the answer
is separated from it, in every common format, also where a tag is missing.
"""

import re
from typing import Any, NamedTuple

from atgen_ray.config.dialects import Thinking

# Opening and closing marks of one kind of thought, as regular expressions.
MARKS = [
    (r"<(think|thinking|thought|thoughts|reasoning|reason|reflection|seed:think)>", r"</{0}>"),
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
]
CLOSING = re.compile(
    r"</(?:think|thinking|thought|thoughts|reasoning|reason|reflection|seed:think)>|\[/THINK\]|◁/think▷"
    r"|<\|end_of_thought\|>|<\|END_THINKING\|>"
)
WRAPPERS = re.compile(
    r"</?answer>|<\|(?:begin|end)_of_solution\|>|<\|(?:START|END)_RESPONSE\|>|◁/?answer▷",
    re.IGNORECASE,
)
CHANNELS = re.compile(
    r"<\|channel\|>(\w+)[^<]*<\|message\|>(.*?)(?=<\|end\|>|<\|return\|>|<\|start\|>|<\|channel\|>|$)",
    re.S,
)


class Thought(NamedTuple):
    """`answer` without its `reasoning`; `cut` when the reasoning never ended, so that there is no
    answer.
    """

    reasoning: str
    answer: str
    cut: bool = False


def write_thinking(style: Thinking, effort: str | None, budget: int | None) -> dict[str, Any]:
    """Return what a chat completion's body says about thought in the dialect `style`; empty where
    neither effort nor budget is set.
    """
    if effort is None and budget is None:
        return {}
    off = effort == "none" or budget == 0
    if style == "openrouter":
        choice = {"enabled": False} if off else {"max_tokens": budget} if budget else {}
        return {"reasoning": choice or {"effort": effort}}
    if style == "deepseek":
        kind = {"thinking": {"type": "disabled" if off else "enabled"}}
        return kind if off else kind | {"reasoning_effort": effort}
    if style == "vllm" and off:
        return {"chat_template_kwargs": {"enable_thinking": False}}
    if style == "gemini" and budget is not None:
        return {"extra_body": {"google": {"thinking_config": {"thinking_budget": budget}}}}
    if style == "litellm" and budget:
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}
    return {"reasoning_effort": "none" if off else effort}


def split_reasoning(text: str) -> Thought:
    """Split `text` into the reasoning at its start and the answer after it.

    A missing opening tag (the chat template wrote it) and a missing closing tag (the answer was cut
    off) are both recognised. Tags later in the answer are part of it.
    """
    if "<|channel|>" in text:  # the harmony format of gpt-oss
        parts = CHANNELS.findall(text)
        final = [content for channel, content in parts if channel == "final"]
        thought = "\n".join(content.strip() for channel, content in parts if channel != "final")
        return Thought(thought, final[-1].strip() if final else "", not final)
    for opening, closing in MARKS:
        if start := re.match(rf"\s*{opening}", text, re.IGNORECASE):
            end = re.compile(closing.format(*start.groups()), re.IGNORECASE).search(
                text, start.end()
            )
            if end is None:
                return Thought(text[start.end() :].strip(), "", True)
            rest = split_reasoning(text[end.end() :])  # some models think twice
            thought = text[start.end() : end.start()].strip()
            return Thought(
                "\n".join(filter(None, (thought, rest.reasoning))), rest.answer, rest.cut
            )
    closing_tag = CLOSING.search(text)
    if closing_tag is not None and not _is_opened(text, closing_tag):
        return Thought(text[: closing_tag.start()].strip(), _unwrap(text[closing_tag.end() :]))
    return Thought("", _unwrap(text))


def _is_opened(text: str, closing: re.Match[str]) -> bool:
    """Return whether the opening tag of `closing` precedes it: then both are part of the answer."""
    opening = (
        closing[0]
        .replace("</", "<")
        .replace("[/", "[")
        .replace("◁/", "◁")
        .replace("end_of", "begin_of")
    )
    return opening.replace("END_", "START_") in text[: closing.start()]


def _unwrap(text: str) -> str:
    """Return the answer without tags that only mark it as the answer."""
    stripped = text.strip()
    first = WRAPPERS.match(stripped)
    return WRAPPERS.sub("", stripped).strip() if first else stripped
