"""Scores of examples: one number from each row of the features table (`records.FEATURES_SCHEMA`).

A score is NaN where the row has an error or lacks what the score needs.
"""

from atgen_ray.scoring.disagreement import bleu_variance
from atgen_ray.scoring.uncertainty import (
    UNCERTAINTIES,
    Uncertainty,
    max_token_nll,
    mean_margin,
    mean_token_entropy,
    min_margin,
    normalized_nll,
    sequence_nll,
)
from atgen_ray.text.support import FAITHFULNESS

__all__ = [
    "FAITHFULNESS",
    "UNCERTAINTIES",
    "Uncertainty",
    "bleu_variance",
    "max_token_nll",
    "mean_margin",
    "mean_token_entropy",
    "min_margin",
    "normalized_nll",
    "sequence_nll",
]
