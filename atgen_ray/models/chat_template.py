"""Properties of a tokenizer's chat template, found by rendering probe conversations through it."""

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, Any]]

PROBE = "atgen7probe"
_BREAK = "\u200b"  # zero-width space
# Templates that print today's date would give another prompt when a run is resumed tomorrow.
_TODAY = datetime(2025, 1, 1)


def render_turns(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Turns,
    generation: bool,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """Return the conversation as the chat template writes it; with `generation`, up to where the
    model's answer begins, and with `tools` in its section of them.

    Without a chat template the turns are joined, a blank line after each.
    """
    if tokenizer.chat_template is None:
        return "".join(f"{turn['content']}\n\n" for turn in turns)
    given = {"tools": tools} if tools else {}
    rendered: Any = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        **given,
        add_generation_prompt=generation,
        strftime_now=_TODAY.strftime,
        enable_thinking=False,  # labels are answers without thoughts, in training as in generation
    )
    return str(rendered)


def takes_system(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether the chat template has a system turn; some raise on it (Gemma), some omit
    it.
    """
    try:
        turns = [{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}]
        return PROBE in render_turns(tokenizer, turns, generation=True)
    except jinja2.TemplateError:
        return False


def find_end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the special token that the template writes after an answer, or else the end of
    sequence; None when the tokenizer has neither.
    """
    eos: int | None = tokenizer.eos_token_id
    if tokenizer.chat_template is None:
        return eos
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    _, found, after = render_turns(tokenizer, turns, generation=False).rpartition(PROBE)
    special = list_special_tokens(tokenizer)
    ids = tokenizer.encode(after, add_special_tokens=False) if found else []
    return next((token for token in ids if token in special), eos)


def find_gap(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the spaces that the template writes between its generation prompt and an answer, as
    Mistral's does.
    """
    question = {"role": "user", "content": "?"}
    prompt = render_turns(tokenizer, [question], generation=True)
    solved = render_turns(
        tokenizer, [question, {"role": "assistant", "content": PROBE}], generation=False
    )
    between = solved.removeprefix(prompt).partition(PROBE)[0] if solved.startswith(prompt) else ""
    return between if not between.strip(" ") else ""


def list_special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """Return the control tokens with their spelling, by id."""
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return {
        token: str(tokenizer.convert_ids_to_tokens(token))
        for token in sorted(added | set(tokenizer.all_special_ids))
    }


def break_special_tokens(text: str, spelled: list[str]) -> str:
    """Return `text` with a zero-width space inside every control token among `spelled`.

    A row that spells <|im_end|> must not be able to end its turn and open another.
    """
    longest_first = sorted(filter(None, spelled), key=len, reverse=True)
    if not longest_first:
        return text
    return re.sub(
        "|".join(map(re.escape, longest_first)),
        lambda found: found[0][:1] + _BREAK + found[0][1:],
        text,
    )
