"""Uncertainty from the likelihood that the model gives its own greedy output."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atgen_ray.scoring.tokens import average_tokens


def normalized_nll(features: pa.Table) -> npt.NDArray[np.float64]:
    """Length-normalised negative log-likelihood -(1/T) sum_t log p(y_t | y_<t, x) in nats, shape (n,).

    T counts the end-of-turn token (Ueffing and Ney, 2007). NaN where a row has an error, no tokens or a log-probability
    that is not finite.
    """
    return -average_tokens(features, "logprobs")
