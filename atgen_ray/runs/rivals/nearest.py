"""Labels that are nearest to a question, by the run's embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from atgen_ray.config import PromptConfig, Shot
from atgen_ray.core.arrays import Numbers
from atgen_ray.models.few_shot import show_before
from atgen_ray.models.prompts import OverlongPromptError, PromptBuilder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = npt.NDArray[np.floating[Any]]
BATCH = 256  # questions that are compared with all labels at once


def find_nearest(questions: Floats, labels: Floats, count: int) -> npt.NDArray[np.int64]:
    """Return the places of the `count` labels of the highest cosine similarity to each question,
    the nearest first; of equal ones the earlier label.

    Args:
        questions, labels: vectors, shape (n, d) and (m, d); a row that is not finite is like
            nothing.

    Returns:
        Shape (n, min(count, m)).
    """
    scaled = _scale(labels)
    found = [
        np.argsort(-(_scale(questions[at : at + BATCH]) @ scaled.T), axis=1, kind="stable")[
            :, :count
        ]
        for at in range(0, len(questions), BATCH)
    ]
    return np.concatenate([np.empty((0, min(count, len(labels))), np.int64), *found])


def _scale(vectors: Floats) -> Numbers:
    """Return the vectors with length 1; those that are not finite, or 0, with length 0."""
    finite = np.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64)
    lengths = np.linalg.norm(finite, axis=1, keepdims=True)
    return np.divide(finite, lengths, out=np.zeros_like(finite), where=lengths > 0)


@dataclass(frozen=True)
class Shown:
    """Questions with labels before them, by id, and how many labels each has room for."""

    texts: dict[str, str]
    counts: dict[str, int]


def show_nearest(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: PromptConfig,
    max_prompt_tokens: int,
    questions: Mapping[str, str],
    nearest: Mapping[str, Sequence[Shot]],
) -> Shown:
    """Return each question after as many of its `nearest` labels as the prompt has room for.

    The nearest label comes last, right before the question, and the farthest is left out first.
    """
    strict = prompt.model_copy(update={"overlong": "reject"})
    builder = PromptBuilder(tokenizer, strict, max_prompt_tokens)
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    for id_, question in questions.items():
        texts[id_], counts[id_] = question, 0
        for count in range(len(nearest[id_]), 0, -1):
            shots = [*reversed(nearest[id_][:count])]
            shown = show_before(question, shots, prompt.response_start)
            try:
                builder.encode(shown)
            except OverlongPromptError:
                continue
            texts[id_], counts[id_] = shown, count
            break
    return Shown(texts, counts)
