"""One number per example from a row of the features table (`records.FEATURES_SCHEMA`); NaN where the row has none."""

from atgen_ray.scoring.entropy import mean_token_entropy
from atgen_ray.scoring.likelihood import normalized_nll

__all__ = ["mean_token_entropy", "normalized_nll"]
