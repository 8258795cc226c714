"""Uncertainty from the likelihood that the model gives its own outputs.

Uncertainty from the spread of the next-token distributions.

The names of the uncertainties of a greedy output; larger is less certain.
"""

from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from atgen_ray.core.arrays import Numbers
from atgen_ray.scoring.tokens import reduce_margins, reduce_tokens


def normalized_nll(features: pa.Table) -> Numbers:
    """Length-normalised negative log-likelihood -(1/T) sum_t log p(y_t | y_<t, x) in nats, shape
    (n,).

    T counts the end-of-turn token (Ueffing and Ney, 2007). NaN where a row has an error, no tokens
    or a log-probability that is not finite.
    """
    return -reduce_tokens(features, "logprobs", "mean")


def sequence_nll(features: pa.Table) -> Numbers:
    """Negative log-likelihood -sum_t log p(y_t | y_<t, x) of the whole greedy output in nats, shape
    (n,); NaN as above.

    The least confidence of sequences (Settles and Craven, EMNLP 2008).
    """
    return -reduce_tokens(features, "logprobs", "sum")


def max_token_nll(features: pa.Table) -> Numbers:
    """Negative log-likelihood max_t -log p(y_t | y_<t, x) of the least likely output token in nats,
    shape (n,).

    The maximum token uncertainty of Bhatt et al. (arXiv 2401.06692). NaN as above.
    """
    return -reduce_tokens(features, "logprobs", "min")


def mean_token_entropy(features: pa.Table) -> Numbers:
    """Mean entropy of the next-token distribution over the greedy output (1/T) sum_t H_t in nats,
    shape (n,).

    The TE of Zhao et al. (Findings of EMNLP 2020). NaN where a row has an error, no tokens or an
    entropy that is not finite.
    """
    return reduce_tokens(features, "entropies", "mean")


def mean_margin(features: pa.Table) -> Numbers:
    """Uncertainty 1 - (1/T) sum_t (p_t1 - p_t2) in [0, 1] from the two likeliest tokens of each
    step, shape (n,).

    The mean margin of Bhatt et al. (arXiv 2401.06692). NaN where a row has an error, no tokens, or
    a step does not report two tokens.
    """
    return 1 - reduce_margins(features, "mean")


def min_margin(features: pa.Table) -> Numbers:
    """Uncertainty 1 - min_t (p_t1 - p_t2) in [0, 1] of the step with the closest two likeliest
    tokens; NaN as above.
    """
    return 1 - reduce_margins(features, "min")


Uncertainty = Literal["nll", "sequence_nll", "max_token", "entropy", "margin", "min_margin"]

UNCERTAINTIES: dict[Uncertainty, Callable[[pa.Table], Numbers]] = {
    "nll": normalized_nll,
    "sequence_nll": sequence_nll,
    "max_token": max_token_nll,
    "entropy": mean_token_entropy,
    "margin": mean_margin,
    "min_margin": min_margin,
}
