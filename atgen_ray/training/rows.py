"""Token ids and loss masks: only the answer and its end-of-turn token are learnt."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atgen_ray.pool.prompts import PromptBuilder

IGNORED = -100


def build_row(builder: "PromptBuilder", text: str, answer: str, max_answer_tokens: int) -> dict[str, list[int]]:
    """One training row: `input_ids`, `attention_mask` and `labels`, all of one length.

    The mask goes by position, never by token id, so a model whose padding token is its end token still learns to
    stop. An over-long prompt is shortened, an answer never is, up to the longest that the model may generate.
    """
    prompt = builder.encode(text)
    answer_ids = builder.encode_answer(answer)[:max_answer_tokens]
    return {
        "input_ids": prompt + answer_ids,
        "attention_mask": [1] * (len(prompt) + len(answer_ids)),
        "labels": [IGNORED] * len(prompt) + answer_ids,
    }
