"""Guards against an engine that answers with other weights than those asked for.

Engines have been seen to keep an old adapter, to give one adapter's answers to requests for another, and to leave a
tied output layer behind. All of that shows in the log-probabilities, and in nothing else.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from atgen_ray.config import ModelConfig, PromptConfig

# Mean absolute difference of log-probabilities in nats. The right weights were seen to differ by at most 0.01 in
# float32 and 0.06 in bfloat16, a stale output layer by 0.22, the base model in place of an adapter by more.
TOLERANCES = {"float32": 0.03, "bfloat16": 0.15, "float16": 0.1}


class AdapterMismatch(RuntimeError):
    """The engine's log-probabilities are not those of the adapter: its outputs must not be used."""


def check_adapter(
    examples: pa.Table, features: pa.Table, model: ModelConfig, prompt: PromptConfig, adapter: Path, rows: int
) -> float:
    """Scores the first `rows` outputs again with transformers and peft, and returns the mean absolute difference.

    Args:
        examples: columns id and text.
        features: FEATURES_SCHEMA, what the engine gave for them.

    Raises:
        AdapterMismatch: the difference, in nats a token, is more than rounding explains.
    """
    import numpy as np
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from atgen_ray.hardware import fit_cpus, resolve_dtype, worker_environment

    texts = dict(zip(examples["id"].to_pylist(), examples["text"].to_pylist(), strict=True))
    usable = [row for row in features.to_pylist() if row["error"] is None and row["token_ids"]][:rows]
    if not usable:
        return 0.0
    task = ray.remote(score_outputs).options(
        num_cpus=fit_cpus(1, 1.0),
        runtime_env={"env_vars": worker_environment(1)},
        # Outside the placement group of a model replica that asks: it has no room for anybody else.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),
    )
    pairs = [(texts[row["id"]], row["token_ids"]) for row in usable]
    expected = np.concatenate(ray.get(task.remote(pairs, model, prompt, adapter)))
    difference = float(np.abs(expected - np.concatenate([row["logprobs"] for row in usable])).mean())
    tolerance = TOLERANCES[str(resolve_dtype(model.dtype)).removeprefix("torch.")]
    if not difference <= tolerance:
        raise AdapterMismatch(
            f"the engine's log-probabilities differ from those of the adapter of round {adapter.parent.name} by "
            f"{difference:.3f} nats a token, more than {tolerance}: its outputs are not this adapter's"
        )
    return difference


def score_outputs(
    pairs: list[tuple[str, list[int]]], model: ModelConfig, prompt: PromptConfig, adapter: Path | None
) -> list[Any]:
    """Log-probabilities of given outputs (text, token ids) by one forward pass each, one array of shape (T,) a pair."""
    import torch

    from atgen_ray.checkpoints import load_tokenizer, load_tuned
    from atgen_ray.pool.prompts import PromptBuilder

    builder = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
    scorer = load_tuned(model, adapter)
    scored = []
    with torch.inference_mode():
        for text, tokens in pairs:
            ids = torch.tensor([builder.encode(text) + list(tokens)])
            logits = scorer(input_ids=ids).logits[0, -len(tokens) - 1 : -1].float()
            chosen = torch.log_softmax(logits, -1).gather(1, ids[0, -len(tokens) :, None])
            scored.append(chosen.squeeze(1).numpy())
    return scored
