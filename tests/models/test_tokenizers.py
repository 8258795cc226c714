"""Reading a checkpoint's tokenizer."""

import subprocess
import sys

from transformers import AutoTokenizer

from atgen_ray.config import ModelConfig
from atgen_ray.models.loading import load_tokenizer


def test_a_tokenizer_without_a_class_is_the_one_of_auto_tokenizer(demo_model: str) -> None:
    chat = [{"role": "user", "content": "Hello <|im_end|> wörld\n\n 12345 \ud7ff"}]
    ours, expected = (
        load_tokenizer(ModelConfig(id=demo_model)),
        AutoTokenizer.from_pretrained(demo_model),
    )
    assert type(ours) is type(expected)
    assert ours.get_vocab() == expected.get_vocab()
    assert ours.special_tokens_map == expected.special_tokens_map
    assert ours.apply_chat_template(chat) == expected.apply_chat_template(chat)
    assert ours.encode("  a b") == expected.encode("  a b")


def test_it_needs_no_torch(demo_model: str) -> None:
    """Processes that only count or encode tokens start seconds sooner."""
    code = (
        "import sys; from atgen_ray.models.loading import load_tokenizer; from atgen_ray.config "
        "import ModelConfig\n"
        "load_tokenizer(ModelConfig(id=sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, demo_model], timeout=120, check=True)
