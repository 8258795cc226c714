"""Source support: a measure of faithfulness without a model, for places without a trained
checkpoint.

It measures how far names, figures, words and sentences of an answer occur in its source. It detects
text that is off the topic, but no small change of a fact. Its numbers cannot be compared with
AlignScore's.
"""

from collections.abc import Sequence

import numpy as np

from atgen_ray.evaluation.metric import Case
from atgen_ray.text.support import FAITHFULNESS


def score_support(cases: Sequence[Case]) -> list[float]:
    """Return the mean of the three supports of `text.support`, 0 to 1; 0 for an answer without
    words.
    """
    sources = [case.source for case in cases]
    outputs = [case.prediction for case in cases]
    supports = [support(sources, outputs) for support in FAITHFULNESS.values()]
    means = np.nan_to_num(np.mean(supports, axis=0), nan=0.0)
    return [float(value) for value in means]
