"""Faithfulness without any model: source support, the default where no trained checkpoint can be
had.

It sees whether names, figures, words and sentences of an answer occur in its source. Off-topic text
stands out; a small change of fact does not. It is not AlignScore, and its numbers must not be
compared with that.
"""

from collections.abc import Sequence

import numpy as np

from atgen_ray.evaluation.metric import Case
from atgen_ray.text.support import FAITHFULNESS


def score_support(cases: Sequence[Case]) -> list[float]:
    """Mean of the three supports of `scoring.support`, 0 to 1; an answer without words has no
    support.
    """
    sources = [case.source for case in cases]
    outputs = [case.prediction for case in cases]
    supports = [support(sources, outputs) for support in FAITHFULNESS.values()]
    means = np.nan_to_num(np.mean(supports, axis=0), nan=0.0)
    return [float(value) for value in means]
