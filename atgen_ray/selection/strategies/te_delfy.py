"""The `te_delfy` strategy: uncertain outputs for prompts of words frequent in the pool and not yet
labelled.
"""

import numpy as np
from pydantic import Field, NonNegativeFloat

from atgen_ray.core.arrays import Integers, Numbers
from atgen_ray.scoring import mean_token_entropy
from atgen_ray.selection.kernels.normalization import normalize
from atgen_ray.selection.kernels.vocabulary import number_words
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Scores


class TeDelfyParameters(NoiseFilterParameters):
    """Token entropy and decay logarithm frequency (TE-delfy; Zhao et al., Findings of EMNLP 2020,
    paper 162).
    """

    labeled_decay: NonNegativeFloat = Field(
        1.0, description="How fast a word loses value with its count in the labelled"
    )
    pool_decay: NonNegativeFloat = Field(
        1.0, description="How fast it does with its count in prompts ranked before"
    )


def _select(candidates: Candidates, parameters: TeDelfyParameters, count: int) -> Scores:
    """Mean of the ranks by token entropy and by delfy, each from 0 (worst) to 1 (best).

    F(w) = log(1 + C_U(w)) over its sum; lf(s) = mean_w F(w) exp(-a C_L(w)) over the stemmed words
    of the prompt s; delfy adds the factor exp(-b C_V(w)), V being the prompts with a larger lf.
    """
    texts, labeled_texts = candidates.prompts()
    entropy = mean_token_entropy(candidates.outputs())
    words, lengths, size = number_words([*texts, *labeled_texts], stem=True)
    split = lengths[: len(texts)].sum()
    pool, labeled = (np.bincount(part, minlength=size) for part in (words[:split], words[split:]))
    value = (
        np.log1p(pool)
        / max(np.log1p(pool).sum(), 1e-300)
        * np.exp(-parameters.labeled_decay * labeled)
    )
    bags = np.split(words[:split], np.cumsum(lengths[: len(texts)])[:-1])
    frequency = np.array([value[bag].mean() if len(bag) else np.nan for bag in bags])
    delfy = _decay(bags, frequency, value, parameters.pool_decay)
    usable = ~np.isnan(entropy) & ~np.isnan(delfy)
    score = np.full(len(texts), np.nan)
    if usable.any():
        score[usable] = (normalize(entropy[usable], "rank") + normalize(delfy[usable], "rank")) / 2
    return Scores(score, {"entropy": entropy, "frequency": frequency, "delfy": delfy})


def _decay(bags: list[Integers], frequency: Numbers, value: Numbers, decay: float) -> Numbers:
    seen = np.zeros(len(value))
    delfy = np.full(len(bags), np.nan)
    for row in np.argsort(-frequency, kind="stable"):
        if bag := bags[row].tolist():
            delfy[row] = (value[bag] * np.exp(-decay * seen[bag])).mean()
            np.add.at(seen, bag, 1.0)
    return delfy


TE_DELFY = with_noise_filter(
    "te_delfy", frozenset({"generations", "texts"}), TeDelfyParameters, _select
)
