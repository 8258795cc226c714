"""Hidden states of the target model as vectors: those of transformers, and no more work than that."""

import json
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atgen_ray.config import EmbeddingConfig, ModelConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.embedding import EmbeddingSpace
from atgen_ray.embedding.encoder import embed_texts
from atgen_ray.embedding.model_states import choose_layer

TEXTS = ["Who wrote Hamlet?", "Add 2 and 2, then 4.", "x", "Who wrote Hamlet?"]


def make_space(model: str, prompt: PromptConfig | None = None, **embedding: Any) -> EmbeddingSpace:
    return EmbeddingSpace(
        EmbeddingConfig(source="model", batch_size=2, **embedding),
        ModelConfig(id=model, dtype="float32", max_prompt_tokens=60),
        prompt or PromptConfig(),
    )


@cache
def load(model: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def read_states(model: str, tokens: list[int], layer: int) -> np.ndarray:
    """States of all tokens after `layer`, as transformers gives them; the last is normalised."""
    import torch

    with torch.inference_mode():
        output = load(model)(input_ids=torch.tensor([tokens]), output_hidden_states=True)
    states: np.ndarray = output.hidden_states[layer][0].numpy()
    return states


@pytest.mark.parametrize(
    ("render", "position"), [("prompt", "last"), ("plain", "mean"), ("prompt", "weighted")]
)
def test_vectors_are_the_states_of_transformers(
    tiny_model: str, render: str, position: str
) -> None:
    from atgen_ray.models.loading import load_tokenizer
    from atgen_ray.models.prompts import PromptBuilder

    space = make_space(tiny_model, render=render, position=position)
    assert space.model is not None
    vectors = embed_texts(space.build_encoder(1), TEXTS)
    assert vectors.shape == (4, 64)
    tokenizer = load_tokenizer(space.model)
    builder = PromptBuilder(tokenizer, PromptConfig(), 60)
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens = builder.encode(text) if render == "prompt" else tokenizer.encode(text)
        states = read_states(tiny_model, tokens, 1)  # half of two layers
        weights = {
            "last": np.eye(len(tokens))[-1],
            "mean": np.ones(len(tokens)),
            "weighted": np.arange(1, len(tokens) + 1),
        }[position]
        expected = weights @ states
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[3], atol=1e-6)


def test_the_chat_template_and_the_system_turn_are_read(tiny_model: str) -> None:
    def embed(render: str, system: str) -> np.ndarray:
        space = make_space(tiny_model, PromptConfig(system=system), render=render)
        return embed_texts(space.build_encoder(1), TEXTS)

    assert not np.allclose(embed("prompt", "Be brief."), embed("prompt", "Be kind."), atol=1e-3)
    np.testing.assert_allclose(embed("plain", "Be brief."), embed("plain", "Be kind."))


def test_the_pass_ends_with_the_layer(tiny_model: str) -> None:
    encoder: Any = make_space(tiny_model).build_encoder(1)
    kinds = [type(layer).__name__ for layer in encoder._backbone.layers]
    assert kinds == ["LlamaDecoderLayer", "Identity"]  # of the second no weights are kept
    passed: list[str] = []
    encoder._backbone.norm.register_forward_hook(lambda *_: passed.append("norm"))
    embed_texts(encoder, TEXTS)
    assert passed == []


def test_a_prompt_that_is_refused_has_no_vector(tiny_model: str) -> None:
    space = make_space(tiny_model, PromptConfig(overlong="reject"))
    texts = ["a", "word " * 200, "b"]
    batch = pa.table({"content": texts, "text": texts})
    rows = space.build_encoder(1)(batch)["embedding"].to_pylist()
    assert [row is None for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("layer", "expected"), [(0.5, 15), (0.01, 1), (1.0, 1), (22, 22), (30, 30), (-1, 30)]
)
def test_a_layer_is_a_share_or_a_number(layer: float, expected: int) -> None:
    assert choose_layer(EmbeddingConfig(source="model", layer=layer).layer, 30, "m") == expected


def test_a_layer_that_the_model_has_not_is_one_line() -> None:
    with pytest.raises(UserError, match=r"layer is 31, but 'm' has 30 layers, expected at most 30"):
        choose_layer(31, 30, "m")
    for wrong in (0.0, 1.5, -2.0):
        with pytest.raises(ValueError, match="expected a share between 0 and 1, a whole number"):
            EmbeddingConfig(source="model", layer=wrong)
    with pytest.raises(ValueError, match=r"embedding.source=model beside it"):
        EmbeddingConfig(position="mean")


def test_the_cache_tells_spaces_apart() -> None:
    def name(prompt: PromptConfig | None = None, model: str = "m", **embedding: Any) -> str:
        return json.dumps(make_space(model, prompt, **embedding).identity, sort_keys=True)

    brief = PromptConfig(system="Be brief.")
    different = [
        name(),
        name(layer=0.7),
        name(position="mean"),
        name(render="plain"),
        name(brief),
        name(model="other"),
        json.dumps(EmbeddingSpace(EmbeddingConfig()).identity),
        json.dumps(EmbeddingSpace(EmbeddingConfig(max_tokens=9)).identity),
    ]
    assert len(set(different)) == len(different)
    # What does not change a vector does not part those who could share.
    assert name(workers=3, whiten="off") == name()
    assert name(brief, render="plain") == name(render="plain")
    # Caches that runs filled before there were other spaces are still found.
    assert EmbeddingSpace(EmbeddingConfig()).identity == {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "max_tokens": 256,
        "dtype": "float32",
    }
