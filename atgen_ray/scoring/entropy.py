"""Uncertainty from the spread of the next-token distributions."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atgen_ray.scoring.tokens import average_tokens


def mean_token_entropy(features: pa.Table) -> npt.NDArray[np.float64]:
    """Mean entropy of the next-token distribution over the greedy output (1/T) sum_t H_t in nats, shape (n,).

    The TE of Zhao et al. (Findings of EMNLP 2020). NaN where a row has an error, no tokens or an entropy that is not
    finite.
    """
    return average_tokens(features, "entropies")
