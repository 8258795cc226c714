"""Engine protocol, its output table, and the token-level requests of replicas."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from atgen_ray.core.records import FEATURES_SCHEMA, GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.grammar import Grammar

# What an engine returns for each row: the features of one output, and which sample it is.
OUTPUT_SCHEMA = pa.schema(
    [
        FEATURES_SCHEMA.field("id"),
        pa.field("sample", pa.int32()),
        *[
            FEATURES_SCHEMA.field(name)
            for name in (
                "prompt_tokens",
                "text",
                "token_ids",
                "logprobs",
                "entropies",
                "top_logprobs",
            )
        ],
        FEATURES_SCHEMA.field("finish_reason"),
        FEATURES_SCHEMA.field("error"),
    ]
)
if TYPE_CHECKING:
    from ray.data import Dataset


class Engine(Protocol):
    """Transforms a Ray Data dataset of prompts into one of outputs."""

    name: str
    scores_answers: bool = False  # whether it scores given answers, in a column of that name

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Stored | None
    ) -> "Dataset":
        """Return one output row for each input row, in any order.

        Args:
            rows: columns id, text (the user turn) and sample (0: greedy; from 1: drawn at random);
                for an engine that `scores_answers` maybe answer, whose tokens and log-probabilities
                are then the output.
            request: lengths, temperature and what to report.
            adapter: a peft folder, whose `local()` a worker calls on its own node; None is the base
                model.

        Returns:
            Rows of OUTPUT_SCHEMA; a row that failed has its reason in `error`.
        """
        ...

    def released(self, run: str) -> AbstractContextManager[None]:
        """Free the device for the training of `run` inside the block, as far as the engine can."""
        return nullcontext()

    def close(self) -> None:
        """End what the engine keeps between passes. It may be used again."""
        return


@dataclass(frozen=True)
class TokenRules:
    """What shapes the choice of tokens beside temperature and top-p. Penalties count the tokens
    generated so far; `logit_bias` is added to logits; `stop_ids` end the output beside those of the
    model.
    """

    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_ids: Sequence[int] = ()
    grammar: Grammar | None = None


@dataclass(frozen=True)
class TokenRequest:
    """A prompt and how to continue it. `temperature` 0 is greedy; `adapter` None is the base model;
    `rules` None leaves the model's distribution as it is. With `answer_ids` nothing is generated:
    the steps are those of that answer. `prompt_logprobs` is the number of
    alternatives wanted of each token of the prompt itself; None asks for no scores of it.
    """

    token_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int = 2
    adapter: str | None = None
    answer_ids: Sequence[int] = ()
    rules: TokenRules | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True)
class TokenStep:
    """One generated token; log-probabilities and entropy are in nats, before any temperature and
    any rule. Only the last step has `finish`, and only the first the scores of the prompt's tokens
    from the second on, if they were asked for.
    """

    token: int
    logprob: float
    entropy: float
    top: list[tuple[int, float]] = field(default_factory=list)
    finish: str | None = None  # "stop" or "length"
    prompt: "Sequence[TokenStep]" = ()
