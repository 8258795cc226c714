"""Uncertainty of the greedy output, by its likelihood or by the spread of the next-token
distributions. Larger is less certain; `UNCERTAINTIES` names the measures.
"""

from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from atgen_ray.core.arrays import Numbers
from atgen_ray.scoring.tokens import reduce_margins, reduce_tokens


def normalized_nll(features: pa.Table) -> Numbers:
    """Return the length-normalised negative log-likelihood -(1/T) sum_t log p(y_t | y_<t, x) in
    nats, shape (n,).

    T counts the end-of-turn token (Ueffing and Ney, 2007). NaN where a row has an error, no tokens
    or a log-probability that is not finite.
    """
    return -reduce_tokens(features, "logprobs", "mean")


def sequence_nll(features: pa.Table) -> Numbers:
    """Return the negative log-likelihood -sum_t log p(y_t | y_<t, x) of the greedy output in nats,
    shape (n,); NaN as for `normalized_nll`.

    This is the least confidence of sequences (Settles and Craven, EMNLP 2008).
    """
    return -reduce_tokens(features, "logprobs", "sum")


def max_token_nll(features: pa.Table) -> Numbers:
    """Return the negative log-likelihood max_t -log p(y_t | y_<t, x) of the least likely output
    token in nats, shape (n,); NaN as for `normalized_nll`.

    This is the maximum token uncertainty of Bhatt et al. (arXiv 2401.06692).
    """
    return -reduce_tokens(features, "logprobs", "min")


def mean_token_entropy(features: pa.Table) -> Numbers:
    """Return the mean entropy (1/T) sum_t H_t of the next-token distributions over the greedy
    output in nats, shape (n,).

    This is TE of Zhao et al. (Findings of EMNLP 2020). NaN where a row has an error, no tokens or
    an entropy that is not finite.
    """
    return reduce_tokens(features, "entropies", "mean")


def mean_margin(features: pa.Table) -> Numbers:
    """Return 1 - (1/T) sum_t (p_t1 - p_t2) in [0, 1], by the two likeliest tokens of each step,
    shape (n,).

    This is the mean margin of Bhatt et al. (arXiv 2401.06692). NaN where a row has an error, no
    tokens, or a step that does not report two tokens.
    """
    return 1 - reduce_margins(features, "mean")


def min_margin(features: pa.Table) -> Numbers:
    """Return 1 - min_t (p_t1 - p_t2) in [0, 1], shape (n,); NaN as for `mean_margin`."""
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
