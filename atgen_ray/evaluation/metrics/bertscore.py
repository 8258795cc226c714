"""BERTScore (Zhang et al., ICLR 2020): F1 of the greedy matching of contextual embeddings, without
idf weights.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from atgen_ray.core.checkpoints import loading, resolve_checkpoint
from atgen_ray.evaluation.metric import Case, Resources

if TYPE_CHECKING:
    import torch

BATCH = 32


def score_similarity(cases: Sequence[Case], resources: Resources) -> list[float]:
    """Return the F1 between prediction and reference, the largest over the references; 0 for an
    empty prediction.

    As in the published package, special tokens can be matched but have no weight, and layer 0 are
    the embeddings. Values are not rescaled with a baseline.
    """
    config = resources.models.bertscore
    texts = [text for case in cases for text in (case.prediction, *case.references)]
    vectors = dict(zip(texts, embed_tokens(texts, config.model, config.layer), strict=True))
    return [
        max(
            (
                match_tokens(vectors[case.prediction], vectors[reference])
                for reference in case.references
            ),
            default=math.nan,
        )
        for case in cases
    ]


# Unit vectors (T, d), and which of them belong to ordinary tokens (T,).
Tokens = tuple["torch.Tensor", "torch.Tensor"]


def match_tokens(predicted: Tokens, expected: Tokens) -> float:
    """Return the F1 of precision and recall, each the mean of the largest cosines of one side."""
    if not predicted[1].any() or not expected[1].any():
        return float(bool(predicted[1].any()) == bool(expected[1].any()))
    similarity = predicted[0] @ expected[0].T
    precision = float(similarity.max(dim=1).values[predicted[1]].mean())
    recall = float(similarity.max(dim=0).values[expected[1]].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def embed_tokens(texts: Sequence[str], model: str, layer: int) -> list[Tokens]:
    """Return the unit vectors of every token at `layer`, in the order of `texts`."""
    import torch

    encoder, tokenizer = _load(model)
    device = next(encoder.parameters()).device
    # Texts of similar length go into one batch, which so has little padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found: dict[int, Tokens] = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        encoded = tokenizer(
            [texts[index].strip() for index in part],
            padding=True,
            truncation=True,
            max_length=min(tokenizer.model_max_length, encoder.config.max_position_embeddings - 2),
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = encoded.pop("special_tokens_mask").bool()
        with torch.inference_mode():
            states = (
                encoder(**encoded.to(device), output_hidden_states=True)
                .hidden_states[layer]
                .float()
                .cpu()
            )
        states = torch.nn.functional.normalize(states, dim=-1)
        for row, index in enumerate(part):
            kept = encoded["attention_mask"][row].bool().cpu()
            found[index] = (states[row][kept], ~special[row][kept])
    return [found[index] for index in range(len(texts))]


@lru_cache(maxsize=1)
def _load(model: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = resolve_checkpoint(model, "evaluation.models.bertscore.model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loading("evaluation.models.bertscore.model", model):
        # Byte-pair vocabularies have other tokens for the first word of a text; with the space it
        # gets those of a word inside a text.
        tokenizer = AutoTokenizer.from_pretrained(source, add_prefix_space=True)
        encoder = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        return encoder.to(device).eval(), tokenizer
