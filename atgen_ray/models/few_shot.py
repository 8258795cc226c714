"""Few-shot baseline: the untuned model with solved examples in its prompt, which tuning must
beat.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atgen_ray.config import ModelConfig, PromptConfig, Shot
from atgen_ray.core.errors import UserError
from atgen_ray.models.loading import find_context, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder

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


def _fits(tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig, limit: int) -> bool:
    """Return whether the fixed parts of the prompt take at most `limit` tokens."""
    try:
        PromptBuilder(tokenizer, prompt, limit)
    except UserError:  # the fixed parts alone are over the limit
        return False
    return True
