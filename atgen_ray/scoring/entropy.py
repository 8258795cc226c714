"""Uncertainty from the spread of the next-token distributions."""

import pyarrow as pa

from atgen_ray.core.arrays import Numbers
from atgen_ray.scoring.tokens import reduce_margins, reduce_tokens


def mean_token_entropy(features: pa.Table) -> Numbers:
    """Mean entropy of the next-token distribution over the greedy output (1/T) sum_t H_t in nats, shape (n,).

    The TE of Zhao et al. (Findings of EMNLP 2020). NaN where a row has an error, no tokens or an entropy that is not
    finite.
    """
    return reduce_tokens(features, "entropies", "mean")


def mean_margin(features: pa.Table) -> Numbers:
    """Uncertainty 1 - (1/T) sum_t (p_t1 - p_t2) in [0, 1] from the two likeliest tokens of each step, shape (n,).

    The mean margin of Bhatt et al. (arXiv 2401.06692). NaN where a row has an error, no tokens, or a step does not
    report two tokens.
    """
    return 1 - reduce_margins(features, "mean")


def min_margin(features: pa.Table) -> Numbers:
    """Uncertainty 1 - min_t (p_t1 - p_t2) in [0, 1] of the step with the closest two likeliest tokens; NaN as above."""
    return 1 - reduce_margins(features, "min")
