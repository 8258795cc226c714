"""Check that an engine computed with the requested adapter.

Engines have kept an old adapter, mixed up the adapters of concurrent requests, left a tied output
layer unchanged, and rounded most of a small adapter away. All of that shows in the
log-probabilities and nowhere else. The measure is the adapter's effect: log-probabilities with the
adapter minus those of the base model.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.checkpoints import is_adapter
from atgen_ray.core.stored import Stored
from atgen_ray.models.loading import TUNED_DTYPE, load_model, load_tokenizer, load_unmerged
from atgen_ray.ray_runtime.hardware import fit_cpus, task_environment

if TYPE_CHECKING:
    import numpy as np

# Mean absolute error in nats a token above which rounding is not the cause: a stale output layer
# caused 0.22, vLLM in float32 differs by 0.001 and in bfloat16 by 0.06.
LARGEST_ERROR = 0.15
# An effect of fewer nats a token is too small to measure what an engine lost of it.
SMALLEST_EFFECT = 1e-4


class AdapterMismatchError(RuntimeError):
    """The engine's log-probabilities are not those of the adapter: its outputs must not be used."""


@dataclass(frozen=True)
class Effect:
    """Comparison of an engine's effect of an adapter with that of peft in float32.

    Attributes:
        slope: of the engine's effects on the true ones, by least squares through the origin; 1 is
            right.
        size: root mean square of the true effects, in nats a token.
        error: mean absolute difference of the log-probabilities, in nats a token.
    """

    slope: float
    size: float
    error: float

    def __str__(self) -> str:
        return (
            f"{self.slope:.1%} of its effect ({self.size:.2g} nats a token), {self.error:.2g} "
            f"nats a token off"
        )

    def is_within(self, tolerance: float) -> bool:
        """Return whether the engine computed this adapter, up to a share `tolerance` of its
        effect.
        """
        kept = self.size < SMALLEST_EFFECT or abs(self.slope - 1) <= tolerance
        return kept and self.error <= LARGEST_ERROR


def check_adapter(
    examples: pa.Table,
    features: pa.Table,
    model: ModelConfig,
    prompt: PromptConfig,
    engine: EngineConfig,
    adapter: Stored,
    rows: int,
) -> Effect | None:
    """Score the first `rows` outputs again with transformers and peft, and compare; None without
    outputs.

    Args:
        examples: columns id and text.
        features: FEATURES_SCHEMA, what the engine gave for them.

    Raises:
        AdapterMismatchError: the adapter's effect is off by more than `engine.adapter_tolerance`.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    texts = dict(zip(examples["id"].to_pylist(), examples["text"].to_pylist(), strict=True))
    usable = [row for row in features.to_pylist() if row["error"] is None and row["token_ids"]][
        :rows
    ]
    if not usable:
        return None
    task = ray.remote(score_outputs).options(
        num_cpus=fit_cpus(1, 1.0),
        num_returns=2,
        # The environment of other tasks, so that a process which has its imports behind it is used.
        runtime_env={"env_vars": task_environment()},
        # Outside the placement group of a model replica that asks: it has no room for anybody else.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),
    )
    pairs = [(texts[row["id"]], row["token_ids"]) for row in usable]
    base, tuned = ray.get(list(task.remote(pairs, model, prompt, adapter)))
    effect = compare_effects([row["logprobs"] for row in usable], base, tuned)
    if not effect.is_within(engine.adapter_tolerance):
        round = PurePosixPath(adapter.path).parent.name
        raise AdapterMismatchError(
            f"the engine's outputs are not those of the adapter of round {round}: "
            f"they have {effect}; "
            f"expected 100% within {engine.adapter_tolerance:.0%} (engine.adapter_tolerance) and "
            f"at most "
            f"{LARGEST_ERROR} nats{_advise(engine)}"
        )
    return effect


def compare_effects(
    found: "list[np.ndarray] | list[list[float]]",
    base: "list[np.ndarray]",
    tuned: "list[np.ndarray]",
) -> Effect:
    """Compare an engine's log-probabilities of some outputs with the true ones; each array has
    shape (T,) for one output.
    """
    import numpy as np

    without = np.concatenate(base)
    true = np.concatenate(tuned) - without
    seen = np.concatenate([np.asarray(each, dtype=np.float64) for each in found]) - without
    square = float(true @ true)
    return Effect(
        slope=float(seen @ true) / square if square else 1.0,
        size=float(np.sqrt((true**2).mean())),
        error=float(np.abs(seen - true).mean()),
    )


def score_outputs(
    pairs: list[tuple[str, list[int]]], model: ModelConfig, prompt: PromptConfig, adapter: Stored
) -> "tuple[list[np.ndarray], list[np.ndarray]]":
    """Return the log-probabilities of given outputs (text, token ids) in float32: of the base
    model, and of the tuned one.

    Each output is one forward pass and gives a float64 array of shape (T,).
    """
    import torch

    from atgen_ray.models.prompts import PromptBuilder

    torch.set_num_threads(1)  # it runs beside the engine
    tuned = adapter.local()
    builder = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
    sequences = [(builder.encode(text), list(tokens)) for text, tokens in pairs]
    with torch.inference_mode():
        scorer = load_unmerged(model, tuned)
        after = [score_answer(scorer, *sequence) for sequence in sequences]
        if is_adapter(tuned):
            with scorer.disable_adapter():
                return [score_answer(scorer, *sequence) for sequence in sequences], after
        del scorer  # memory may not suffice for two models
        scorer = load_model(model, TUNED_DTYPE)
        return [score_answer(scorer, *sequence) for sequence in sequences], after


def score_answer(model: Any, prompt: list[int], tokens: list[int]) -> "np.ndarray":
    """Return the log-probabilities of `tokens` after `prompt`, float64 (T,)."""
    import torch

    ids = torch.tensor([prompt + tokens], device=next(model.parameters()).device)
    logits = model(input_ids=ids, use_cache=False).logits[0, -len(tokens) - 1 : -1].double()
    chosen = torch.log_softmax(logits, -1).gather(1, ids[0, -len(tokens) :, None])
    scored: np.ndarray = chosen.squeeze(1).cpu().numpy()
    return scored


def _advise(engine: EngineConfig) -> str:
    """Return a hint for the configuration, or an empty text."""
    if engine.adapters == "merged" or (engine.adapters == "auto" and engine.backend != "sglang"):
        return ""
    return (
        f". engine.adapters is {engine.adapters!r}: kernels for adapters round on a GPU; merged "
        f"computes in float32"
    )
