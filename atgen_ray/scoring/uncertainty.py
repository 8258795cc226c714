"""The names of the uncertainties of a greedy output; larger is less certain."""

from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from atgen_ray.core.arrays import Numbers
from atgen_ray.scoring.entropy import mean_margin, mean_token_entropy, min_margin
from atgen_ray.scoring.likelihood import max_token_nll, normalized_nll, sequence_nll

Uncertainty = Literal["nll", "sequence_nll", "max_token", "entropy", "margin", "min_margin"]

UNCERTAINTIES: dict[Uncertainty, Callable[[pa.Table], Numbers]] = {
    "nll": normalized_nll,
    "sequence_nll": sequence_nll,
    "max_token": max_token_nll,
    "entropy": mean_token_entropy,
    "margin": mean_margin,
    "min_margin": min_margin,
}
