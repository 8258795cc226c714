"""What a tokenizer's chat template does, found by rendering probe conversations through it."""

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, str]]

PROBE = "atgen7probe"
_BREAK = "\u200b"  # zero-width space
# Templates that print today's date would give another prompt when a run is resumed tomorrow.
_TODAY = datetime(2025, 1, 1)


def render_turns(tokenizer: "PreTrainedTokenizerBase", turns: Turns, generation: bool) -> str:
    """The conversation as the chat template writes it; with `generation`, up to where the model's
    answer begins.

    Without a chat template the turns stand one below the other, a blank line after each.
    """
    if tokenizer.chat_template is None:
        return "".join(f"{turn['content']}\n\n" for turn in turns)
    rendered: Any = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=generation,
        strftime_now=_TODAY.strftime,
        enable_thinking=False,  # labels are answers without thoughts, in training as in generation
    )
    return str(rendered)


def takes_system(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template has a system turn; some raise on it (Gemma), some leave it out."""
    try:
        turns = [{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}]
        return PROBE in render_turns(tokenizer, turns, generation=True)
    except jinja2.TemplateError:
        return False


def find_end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token that the template puts after an answer; the end of sequence where it puts
    none.

    None when the tokenizer has neither.
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
    """The spaces that the template writes between its generation prompt and an answer, as Mistral's
    does.
    """
    question = {"role": "user", "content": "?"}
    prompt = render_turns(tokenizer, [question], generation=True)
    solved = render_turns(
        tokenizer, [question, {"role": "assistant", "content": PROBE}], generation=False
    )
    between = solved.removeprefix(prompt).partition(PROBE)[0] if solved.startswith(prompt) else ""
    return between if not between.strip(" ") else ""


def list_special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """The control tokens and how they are spelled."""
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return {
        token: str(tokenizer.convert_ids_to_tokens(token))
        for token in sorted(added | set(tokenizer.all_special_ids))
    }


def break_special_tokens(text: str, spelled: list[str]) -> str:
    """`text` with a zero-width space inside whatever would be read as one of the control tokens
    `spelled`.

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
