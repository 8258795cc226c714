"""Uncertainty from the likelihood that the model gives its own outputs."""

import pyarrow as pa

from atgen_ray.core.arrays import Numbers
from atgen_ray.scoring.tokens import reduce_tokens


def normalized_nll(features: pa.Table) -> Numbers:
    """Length-normalised negative log-likelihood -(1/T) sum_t log p(y_t | y_<t, x) in nats, shape (n,).

    T counts the end-of-turn token (Ueffing and Ney, 2007). NaN where a row has an error, no tokens or a log-probability
    that is not finite.
    """
    return -reduce_tokens(features, "logprobs", "mean")


def sequence_nll(features: pa.Table) -> Numbers:
    """Negative log-likelihood -sum_t log p(y_t | y_<t, x) of the whole greedy output in nats, shape (n,); NaN as above.

    The least confidence of sequences (Settles and Craven, EMNLP 2008).
    """
    return -reduce_tokens(features, "logprobs", "sum")


def max_token_nll(features: pa.Table) -> Numbers:
    """Negative log-likelihood max_t -log p(y_t | y_<t, x) of the least likely output token in nats, shape (n,).

    The maximum token uncertainty of Bhatt et al. (arXiv 2401.06692). NaN as above.
    """
    return -reduce_tokens(features, "logprobs", "min")
