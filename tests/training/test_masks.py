"""The mask against each family's chat template: what is learnt is the answer and its end, no more
and no less.
"""

from typing import Any

import pytest
from helpers.chat_templates import FAMILIES, build_tokenizer

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.training.batching import IGNORED, build_row

QUESTION = "what is the capital of France, Paris?"
ANSWERS = ["Paris", "Paris is the capital of France; 42 is not.", "yes,\nno"]
TEMPLATES = ["chatml", "llama3", "gemma", "mistral", "qwen3", "smollm2"]


@pytest.fixture(params=TEMPLATES)
def family(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """A tokenizer with its chat template and the token that ends an answer."""
    if request.param == "smollm2":
        model = ModelConfig(
            id=request.getfixturevalue("demo_model"), max_prompt_tokens=80, max_new_tokens=10
        )
        return load_tokenizer(model), "<|im_end|>"
    return build_tokenizer(request.param), FAMILIES[request.param].end


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_learnt_is_where_the_template_puts_the_answer(
    family: tuple[Any, str], answer: str
) -> None:
    tokenizer, end = family
    row = build_row(PromptBuilder(tokenizer, PromptConfig(), 200), QUESTION, answer, 50)
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
    conversation = tokenizer.apply_chat_template(turns, tokenize=False)
    encoded = tokenizer(conversation, add_special_tokens=False, return_offsets_mapping=True)
    start = conversation.rindex(answer)
    stop = conversation.index(end, start) + len(end)
    inside = [opened < stop and closed > start for opened, closed in encoded["offset_mapping"]]
    learnt = [label != IGNORED for label in row["labels"]]
    assert row["input_ids"] == encoded["input_ids"][: len(row["input_ids"])]
    assert learnt == inside[: len(learnt)]
    assert not any(inside[len(learnt) :]), "the row ends with the answer's end"
    assert [label for label in row["labels"] if label != IGNORED] == row["input_ids"][
        -sum(learnt) :
    ]


def test_the_end_is_learnt_though_it_is_the_padding_token(family: tuple[Any, str]) -> None:
    tokenizer, end = family
    tokenizer.pad_token = end
    row = build_row(PromptBuilder(tokenizer, PromptConfig(), 200), QUESTION, "Paris", 50)
    assert row["labels"][-1] == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(end)
    assert row["labels"].count(tokenizer.pad_token_id) == 1


def test_what_is_too_long_is_cut_from_the_prompt(family: tuple[Any, str]) -> None:
    builder = PromptBuilder(family[0], PromptConfig(), 80)
    row = build_row(builder, "the lazy dog " * 500, "Paris is it", 50)
    assert 70 < sum(label == IGNORED for label in row["labels"]) <= 80
    assert builder.decode([label for label in row["labels"] if label != IGNORED]) == "Paris is it"
