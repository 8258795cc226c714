"""The tuned model with its adapter in its weights, in the number format of the base, and what that
rounding did to its answers.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.core.checkpoints import is_adapter
from atgen_ray.core.errors import UserError
from atgen_ray.engines.adapter_check import LARGEST_ERROR, score_answer
from atgen_ray.models.loading import (
    TUNED_DTYPE,
    find_stored_dtype,
    load_model,
    load_tokenizer,
    load_unmerged,
)
from atgen_ray.models.prompts import OverlongPromptError, PromptBuilder

if TYPE_CHECKING:
    import numpy as np

MOST_EXAMPLES = 32  # labels by which the loss of rounding is measured

Tokens = tuple[list[int], list[int]]  # of a prompt, and of its label


@dataclass(frozen=True)
class Difference:
    """How far apart two models are on the labels of a run.

    Attributes:
        largest, mean: absolute difference of the log-probabilities, in nats a token.
        tokens: of the labels that were scored.
        examples: that these labels belong to.
    """

    largest: float
    mean: float
    tokens: int
    examples: int

    def __str__(self) -> str:
        return (
            f"at most {self.largest:.2g} and on average {self.mean:.2g} nats a token, "
            f"over {self.tokens} tokens of {self.examples} labels"
        )


@dataclass(frozen=True)
class Merged:
    """A merged model: its number format, what it says to the labels (nats), and what rounding did;
    None where the run has no label to measure by.
    """

    dtype: str
    sequences: list[Tokens]
    scores: "list[np.ndarray]"
    rounding: Difference | None


def spread_out(items: Sequence[Any], most: int = MOST_EXAMPLES) -> list[Any]:
    """Return at most `most` of `items`, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[at * len(items) // most] for at in range(most)]


def save_merged(
    model: ModelConfig,
    prompt: PromptConfig,
    tuned: Path,
    pairs: Iterable[tuple[str, str]],
    folder: Path,
) -> Merged:
    """Write the model with the adapter `tuned` in its weights, and its tokenizer, to `folder`.

    The weights have the number format of the base's checkpoint. What was written is read back and
    compared with base and adapter in float32.

    Args:
        tuned: the folder of an adapter, or of a whole model.
        pairs: user turns with their labels, to compare by.

    Raises:
        UserError: the base cannot be loaded, or what was written is another model.
    """
    import torch

    dtype = find_stored_dtype(model)
    tokenizer = load_tokenizer(model)
    builder = PromptBuilder(tokenizer, prompt, model.max_prompt_tokens)
    sequences = encode_pairs(builder, pairs)
    with torch.no_grad(), without_bars():
        loaded = load_unmerged(model, tuned)
        before = score_all(loaded, sequences)
        whole = loaded.merge_and_unload() if is_adapter(tuned) else loaded
        whole.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del loaded, whole  # memory may not suffice for two models
        scores = score_all(load_saved(model, folder), sequences)
    rounding = compare_scores(before, scores)
    name = str(dtype).removeprefix("torch.")
    if rounding is not None and not rounding.mean <= LARGEST_ERROR:
        raise UserError(
            f"the merged model in {name} is not the tuned one: its log-probabilities differ "
            f"{rounding}, expected at most {LARGEST_ERROR} on average; take the adapter instead "
            f"(--what adapter)"
        )
    return Merged(name, sequences, scores, rounding)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for every checkpoint."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_saved(model: ModelConfig, folder: Path) -> Any:
    """Return the model that `save_merged` wrote, in float32."""
    saved = model.model_copy(update={"id": str(folder), "revision": None})
    return load_model(saved, TUNED_DTYPE)


def encode_pairs(builder: PromptBuilder, pairs: Iterable[tuple[str, str]]) -> list[Tokens]:
    """Return prompts and labels as token ids, without prompts that the run itself refuses."""
    found = []
    for text, label in pairs:
        try:
            found.append((builder.encode(text), builder.encode_answer(label)))
        except OverlongPromptError:
            continue
    return found


def score_all(model: Any, sequences: Sequence[Tokens]) -> "list[np.ndarray]":
    """Return the log-probabilities of every label; each array has shape (T,)."""
    return [score_answer(model, prompt, label) for prompt, label in sequences]


def compare_scores(one: "list[np.ndarray]", other: "list[np.ndarray]") -> Difference | None:
    """Return how far apart two results of `score_all` are; None where they are empty."""
    import numpy as np

    if not one:
        return None
    apart = np.abs(np.concatenate(one) - np.concatenate(other))
    return Difference(float(apart.max()), float(apart.mean()), len(apart), len(one))
