"""Strategies that measure uncertainty by the tokens of the greedy output.

- `nsp` picks examples whose output the model itself finds unlikely.
- `entropy` picks examples whose output had many alternatives at every step.
- `margin` picks examples in whose output the second choice of a token came close to the first.
- `max_token` picks examples whose output holds a very unlikely token.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from atgen_ray.scoring import (
    max_token_nll,
    mean_margin,
    mean_token_entropy,
    min_margin,
    normalized_nll,
    sequence_nll,
)
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Scores, Strategy


class NspParameters(NoiseFilterParameters):
    """Normalised sequence probability (Ueffing and Ney, Computational Linguistics 2007)."""

    length: Literal["mean", "sum"] = Field(
        "mean",
        description="mean: divide by the length of the output; sum: least confidence, which "
        "favours long ones",
    )
    scale: Literal["nll", "probability"] = Field(
        "nll", description="nll: -log p; probability: 1 - p, in the same order but from 0 to 1"
    )


def _select(candidates: Candidates, parameters: NspParameters, count: int) -> Scores:
    """Score -(1/T) log p(y | x) of the greedy output, or -log p(y | x)."""
    measure = normalized_nll if parameters.length == "mean" else sequence_nll
    nll = candidates.measure(measure)
    return Scores(nll if parameters.scale == "nll" else -np.expm1(-nll), {"nll": nll})


NSP = with_noise_filter(
    Strategy(
        "nsp",
        needs=frozenset({"generations"}),
        parameters=NspParameters,
        distribution="block",
        select=_select,
        title="Improbable answers",
        why="The model gave its own answers to these examples a low probability, so it is least "
        "sure of them.",
        score="How improbable the model's own answer was, per token unless the strategy is set to "
        "sum over tokens; larger was picked first.",
        parts={
            "nll": "Negative log-likelihood of the model's own answer in nats, per token or "
            "summed as the strategy is set; larger is less sure.",
        },
        titles={
            "nll": "negative log-likelihood",
        },
    )
)


class EntropyParameters(NoiseFilterParameters):
    """Mean token entropy of the greedy output (Zhao et al., Findings of EMNLP 2020)."""


def _select_entropy(candidates: Candidates, parameters: EntropyParameters, count: int) -> Scores:
    """Score (1/T) sum_t H(p(. | y_<t, x)) in nats."""
    return Scores(candidates.measure(mean_token_entropy))


ENTROPY = with_noise_filter(
    Strategy(
        "entropy",
        needs=frozenset({"generations"}),
        parameters=EntropyParameters,
        distribution="block",
        select=_select_entropy,
        title="Uncertain next tokens",
        why="While the model wrote its answers to these examples, many different next tokens were "
        "likely, so it was undecided at most steps.",
        score="Entropy of the model's distribution over the next token in nats, averaged over its "
        "answer; larger is less sure.",
    )
)


class MarginParameters(NoiseFilterParameters):
    """Margin between the two likeliest tokens of each step (Bhatt et al., arXiv 2401.06692)."""

    statistic: Literal["mean", "min"] = Field(
        "mean", description="Mean margin of the output, or that of its closest step"
    )


def _select_margin(candidates: Candidates, parameters: MarginParameters, count: int) -> Scores:
    """Score 1 - margin, where the margin is the mean or the minimum over t of p_t1 - p_t2."""
    measure = mean_margin if parameters.statistic == "mean" else min_margin
    return Scores(candidates.measure(measure))


MARGIN = with_noise_filter(
    Strategy(
        "margin",
        needs=frozenset({"generations"}),
        parameters=MarginParameters,
        distribution="block",
        select=_select_margin,
        title="Close second choices",
        why="While the model wrote its answers to these examples, the second most likely token "
        "came close to the most likely one.",
        score="1 minus the difference in probability between the two most likely tokens, as a "
        "mean over the answer or at its closest step; larger is less sure.",
    )
)


class MaxTokenParameters(NoiseFilterParameters):
    """Maximum token uncertainty (Bhatt et al., arXiv 2401.06692)."""


def _select_max_token(candidates: Candidates, parameters: MaxTokenParameters, count: int) -> Scores:
    """Score max_t -log p(y_t | y_<t, x) over the tokens of the greedy output."""
    return Scores(candidates.measure(max_token_nll))


MAX_TOKEN = with_noise_filter(
    Strategy(
        "max_token",
        needs=frozenset({"generations"}),
        parameters=MaxTokenParameters,
        distribution="block",
        select=_select_max_token,
        title="Least likely token",
        why="The model's answer to each of these examples holds at least one token that the model "
        "itself found very improbable.",
        score="Negative log-probability of the least likely token of the answer in nats; larger "
        "is less sure.",
    )
)
