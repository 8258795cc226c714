"""Answers that a training leaves behind, by which an engine is checked without loading the model
once more.

Whoever has trained an adapter has the base model in memory. It answers a few prompts greedily and
scores its answers with and without the adapter, in float32. The engine answers the same prompts in
the pass whose outputs are to be used. As far as both chose the same tokens, the engine's
log-probabilities must be the true ones; where they tell too little, `adapter_check` loads the model
and looks at more.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.config import ModelConfig, TrainingConfig
from atgen_ray.core.checkpoints import ADAPTER_WEIGHTS
from atgen_ray.engines.adapter_check import (
    SMALLEST_EFFECT,
    Effect,
    compare_effects,
    score_answer,
)
from atgen_ray.engines.decoding import pad_left
from atgen_ray.models.loading import find_stored_dtype
from atgen_ray.models.prompts import PromptBuilder

if TYPE_CHECKING:
    import numpy as np
    import torch

PROBES = (
    "Count to five.",
    "Name a colour and an animal.",
    "What is the capital of France, and why is it known?",
    "Write one sentence about rain in a small town.",
    "Summarise: the meeting was moved from Monday to Thursday, as two people were ill.",
    "Is 91 a prime number? Answer in a few words.",
    "Translate into German: good morning, how are you?",
    "List three things that are found in a kitchen.",
)
TOKENS = 12  # of each answer, at most
FEWEST = 8  # tokens in common, below which nothing is concluded
PREFIX = "probe-"  # of ids; examples have hexadecimal ones

Answer = tuple[Sequence[int], Sequence[float]]  # tokens, and the log-probability of each


@dataclass(frozen=True)
class Probe:
    """An answer of the tuned model with its log-probabilities, one a token: of the base model, and
    of the tuned one. `prompt_ids` is `text` in the prompt of the run; older versions left it out.
    """

    text: str
    token_ids: list[int]
    base: list[float]
    tuned: list[float]
    prompt_ids: list[int] = field(default_factory=list)


def read_probes(training: Mapping[str, Any]) -> list[Probe]:
    """Return what a training left behind, by its result as JSON; older versions left nothing."""
    return [Probe(**fields) for fields in training.get("probes", [])]


def can_measure(model: Any, config: ModelConfig, training: TrainingConfig) -> bool:
    """Return whether the trained `model` can tell the true log-probabilities: it is whole, has the
    base model's own weights, and a separate adapter.
    """
    import torch

    if not hasattr(model, "peft_config") or training.method == "qlora":
        return False
    if training.backend != "transformers" or training.sharding != "ddp":
        return False
    kinds = {weight.dtype for weight in model.parameters()}
    # To read a checkpoint in fewer bits than it has loses some of them for good.
    return kinds <= {torch.float32, find_stored_dtype(config)}


def measure_probes(
    model: Any, adapter: Path, prompts: PromptBuilder, count: int
) -> list[dict[str, Any]]:
    """Return the fields of `count` probes, answered by `model`, a PeftModel, with the weights that
    the folder `adapter` holds. Afterwards it is in evaluation mode, and has these weights.
    """
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    # What is checked is what was saved, not what training happens to have in memory.
    set_peft_model_state_dict(model, load_file(adapter / ADAPTER_WEIGHTS))
    model.eval()
    texts = PROBES[:count]
    encoded = [prompts.encode(text) for text in texts]
    with torch.no_grad(), _in_float32(model):
        answers, tuned = _answer(model, encoded, prompts.stop_ids)
        with model.disable_adapter():
            base = [
                score_answer(model, prompt, answer).tolist()
                for prompt, answer in zip(encoded, answers, strict=True)
            ]
    found = zip(texts, answers, base, tuned, encoded, strict=True)
    return [vars(Probe(*fields)) for fields in found]


def tabulate_probes(probes: Sequence[Probe]) -> pa.Table:
    """Return probes as examples of a pass: columns id and text."""
    ids = [f"{PREFIX}{number}" for number in range(len(probes))]
    return pa.table({"id": pa.array(ids, pa.string()), "text": [probe.text for probe in probes]})


def compare_probes(probes: Sequence[Probe], features: pa.Table) -> Effect | None:
    """Compare what an engine answered, FEATURES_SCHEMA of `tabulate_probes`, with the true
    log-probabilities; None where the answers have too little in common, or the adapter does too
    little, to tell.
    """
    rows = {row["id"]: row for row in features.to_pylist() if row["error"] is None}
    answers: list[Answer] = []
    for number in range(len(probes)):
        row = rows.get(f"{PREFIX}{number}", {"token_ids": [], "logprobs": []})
        answers.append((row["token_ids"], row["logprobs"]))
    if count_common(probes, answers) < FEWEST:
        return None
    effect = compare_answers(probes, answers)
    return None if effect.size < SMALLEST_EFFECT else effect


def count_common(probes: Sequence[Probe], answers: Sequence[Answer]) -> int:
    """Return how many tokens the answers have in common with the true ones."""
    pairs = zip(probes, answers, strict=True)
    return sum(_count_same(probe.token_ids, tokens) for probe, (tokens, _) in pairs)


def compare_answers(probes: Sequence[Probe], answers: Sequence[Answer]) -> Effect:
    """Compare an engine's answers to `probes`, of which at least one token is the true one, with
    the true ones, each as far as both chose the same tokens.
    """
    found, base, tuned = [], [], []
    for probe, (tokens, logprobs) in zip(probes, answers, strict=True):
        same = _count_same(probe.token_ids, tokens)
        found.append(list(logprobs[:same]))
        base.append(_to_array(probe.base[:same]))
        tuned.append(_to_array(probe.tuned[:same]))
    return compare_effects(found, base, tuned)


def _answer(
    model: Any, prompts: Sequence[list[int]], stop_ids: Sequence[int]
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the greedy answers, each with the token that ends it, and their log-probabilities."""
    import torch
    from transformers import GenerationConfig

    ids, mask = pad_left(prompts, filler=stop_ids[0])
    device = next(model.parameters()).device
    greedy = GenerationConfig(
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        return_dict_in_generate=True,
        output_logits=True,
    )
    made = model.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=greedy
    )
    tokens = made.sequences[:, ids.shape[1] :]
    scores = torch.stack([torch.log_softmax(step.double(), -1) for step in made.logits], 1)
    chosen = scores.gather(2, tokens[..., None]).squeeze(2).tolist()
    answers = []
    for row in tokens.tolist():
        end = next((at for at, token in enumerate(row) if token in stop_ids), len(row))
        answers.append(row[: end + 1])
    scored = zip(chosen, answers, strict=True)
    return answers, [values[: len(answer)] for values, answer in scored]


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Let every module compute in float32: its weights are widened while it works, so that the
    memory for one layer is enough. To widen loses nothing.
    """
    import torch

    handles = []
    for module in model.modules():
        own = [weight for weight in module.parameters(recurse=False) if _is_low(weight)]
        if own:
            kept: list[torch.Tensor] = []

            def widen(*_: Any, own: Any = own, kept: Any = kept) -> None:
                kept[:] = [weight.data for weight in own]
                for weight in own:
                    weight.data = weight.data.float()

            def narrow(*_: Any, own: Any = own, kept: Any = kept) -> None:
                for weight, data in zip(own, kept, strict=True):
                    weight.data = data

            handles.append(module.register_forward_pre_hook(widen))
            handles.append(module.register_forward_hook(narrow, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_low(weight: "torch.Tensor") -> bool:
    return weight.is_floating_point() and weight.element_size() < 4


def _count_same(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two answers have in common before they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    differ = (at for at, (left, right) in pairs if left != right)
    return next(differ, min(len(one), len(other)))


def _to_array(values: Sequence[float]) -> "np.ndarray":
    import numpy as np

    return np.asarray(values, dtype=np.float64)
