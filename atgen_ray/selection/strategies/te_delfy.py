"""The `te_delfy` strategy picks examples with uncertain outputs whose words are frequent in the
pool and rare in the labelled examples.
"""

import numpy as np
from pydantic import Field, NonNegativeFloat

from atgen_ray.core.arrays import Integers, Numbers
from atgen_ray.scoring import mean_token_entropy
from atgen_ray.selection.kernels.normalization import normalize
from atgen_ray.selection.kernels.vocabulary import number_words
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Scores, Strategy


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
    """Score: the mean of the ranks by token entropy and by delfy, each from 0 (worst) to 1 (best).

    F(w) is log(1 + C_U(w)) over its sum, and lf(s) = mean_w F(w) exp(-a C_L(w)) over the stemmed
    words w of the prompt s. delfy adds the factor exp(-b C_V(w)), where V are the prompts with a
    larger lf. C_U, C_L and C_V count w in the pool, the labelled prompts and V.
    """
    texts, labeled_texts = candidates.prompts()
    entropy = candidates.measure(mean_token_entropy)
    words, lengths, size = number_words([*texts, *labeled_texts], stem=True)
    split = lengths[: len(texts)].sum()
    in_pool = np.bincount(words[:split], minlength=size)
    in_labeled = np.bincount(words[split:], minlength=size)
    share = np.log1p(in_pool) / max(np.log1p(in_pool).sum(), 1e-300)
    value = share * np.exp(-parameters.labeled_decay * in_labeled)
    bags = np.split(words[:split], np.cumsum(lengths[: len(texts)])[:-1])
    frequency = np.array([value[bag].mean() if len(bag) else np.nan for bag in bags])
    delfy = _decay(bags, frequency, value, parameters.pool_decay)
    usable = ~np.isnan(entropy) & ~np.isnan(delfy)
    score = np.full(len(texts), np.nan)
    if usable.any():
        score[usable] = (normalize(entropy[usable], "rank") + normalize(delfy[usable], "rank")) / 2
    return Scores(score, {"entropy": entropy, "frequency": frequency, "delfy": delfy})


def _decay(bags: list[Integers], frequency: Numbers, value: Numbers, decay: float) -> Numbers:
    """Return delfy of every prompt: its mean word value, decayed by the words of the prompts with a
    larger `frequency`.
    """
    seen = np.zeros(len(value))
    delfy = np.full(len(bags), np.nan)
    for row in np.argsort(-frequency, kind="stable"):
        if bag := bags[row].tolist():
            delfy[row] = (value[bag] * np.exp(-decay * seen[bag])).mean()
            np.add.at(seen, bag, 1.0)
    return delfy


TE_DELFY = with_noise_filter(
    Strategy(
        "te_delfy",
        needs=frozenset({"generations", "texts"}),
        parameters=TeDelfyParameters,
        distribution="statistics",
        select=_select,
        title="Uncertain answers to frequent words",
        why="The model is unsure of its answers to these examples, and their prompts hold words "
        "that are frequent in the pool and rare among the labels and the examples ranked before.",
        score="Mean of two ranks, by uncertainty and by word frequency, each from 0 (last) to 1 "
        "(first).",
        parts={
            "entropy": "Entropy of the model's distribution over the next token in nats, averaged "
            "over its answer; larger is less sure.",
            "frequency": "Mean frequency in the pool of the prompt's words, lowered for words "
            "that labelled prompts hold.",
            "delfy": "The same frequency, lowered also for words of prompts that rank higher; it "
            "keeps the batch diverse.",
        },
        titles={
            "entropy": "token entropy",
            "frequency": "word frequency",
            "delfy": "word frequency without repeats",
        },
    )
)
