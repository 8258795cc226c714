"""Baselines that tuning must beat: the untuned model with solved examples, or with another
instruction, in its prompt.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from atgen_ray.config import ModelConfig, PromptConfig, Shot
from atgen_ray.core.errors import UserError
from atgen_ray.models.loading import find_context, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.text.conversation import Conversation, Turn, read_conversation, show_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def show_solved(
    model: ModelConfig, prompt: PromptConfig, solved: Sequence[Shot]
) -> tuple[ModelConfig, PromptConfig]:
    """Return `prompt` with `solved` in place of its own shots, and `model` with room for them.

    Args:
        solved: filled user turns, as in the pool, with their labels. If not all of them fit into
            the model's context with a question, the longest are left out.
    """
    shots = list(solved)
    longest = model.max_prompt_tokens * (len(shots) + 1)
    if context := find_context(model):
        longest = min(longest, context - model.max_new_tokens)
    tokenizer = load_tokenizer(model)
    while True:
        shown = prompt.model_copy(update={"template": "{{ input }}", "few_shot": shots})
        if not shots or _fits(tokenizer, shown, longest - model.max_prompt_tokens):
            return model.model_copy(update={"max_prompt_tokens": longest}), shown
        shots.remove(max(shots, key=lambda shot: len(shot.input) + len(shot.output)))


def show_before(text: str, shots: Sequence[Shot], start: str = "") -> str:
    """Return the text of an example as a conversation in which `shots` were asked and answered
    before it, in the model's own chat template; `start` begins every answer.
    """
    turns = [
        turn
        for shot in shots
        for turn in (
            Turn("user", show_example(shot.input)),
            Turn("assistant", start + shot.output.removeprefix(start)),
        )
    ]
    asked = _read(text)
    first = sum(turn.role == "system" for turn in asked.turns[:1])
    return replace(asked, turns=(*asked.turns[:first], *turns, *asked.turns[first:])).write()


def instruct(text: str, instruction: str) -> str:
    """Return the text of an example as a conversation with `instruction` as its system turn, in
    place of that of the prompt or its own.
    """
    asked = _read(text)
    spoken = (turn for turn in asked.turns if turn.role != "system")
    return replace(asked, turns=(Turn("system", instruction), *spoken)).write()


def _read(text: str) -> Conversation:
    return read_conversation(text) or Conversation((Turn("user", text),))


def _fits(tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig, limit: int) -> bool:
    """Return whether the fixed parts of the prompt take at most `limit` tokens."""
    try:
        PromptBuilder(tokenizer, prompt, limit)
    except UserError:  # the fixed parts alone are over the limit
        return False
    return True
