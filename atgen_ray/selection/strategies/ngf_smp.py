"""The `ngf_smp` strategy picks prompts with many frequent phrases that no labelled prompt holds."""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.selection.kernels.greedy import maximize
from atgen_ray.selection.kernels.ngrams import PhraseCoverage, find_phrases
from atgen_ray.selection.kernels.vocabulary import number_words
from atgen_ray.selection.strategy import Candidates, Parameters, Picks, Strategy, pick_ids


class NgfSmpParameters(Parameters):
    """n-gram frequency over semi-maximal phrases (NGF-SMP; Hu and Neubig, WMT 2021, arXiv
    2106.11375).

    Approximate: the paper has phrases annotated, the most frequent first; here whole examples are,
    so one is worth the counts of its phrases that are not known yet, over its length in words.
    """

    longest: PositiveInt = Field(4, description="Longest phrase in words")
    least: PositiveInt = Field(2, description="Fewest occurrences of a phrase in the pool")
    share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A phrase whose longer phrase occurs more than this share as often is no "
        "phrase",
    )


def _select(candidates: Candidates, parameters: NgfSmpParameters, count: int) -> Picks:
    """Pick greedily by the summed pool counts of new phrases over length in words; the phrases of a
    pick are known from then on.
    """
    texts, labeled_texts = candidates.prompts()
    size = len(texts)
    words, lengths, _ = number_words([*texts, *labeled_texts], stem=False)
    owners, phrases, worth = find_phrases(
        words, lengths, size, parameters.longest, parameters.least, parameters.share
    )
    worth[phrases[owners >= size]] = 0.0  # a labelled prompt holds them
    inside = owners < size
    function = PhraseCoverage(
        owners[inside], phrases[inside], worth, lengths[:size].astype(np.float64)
    )
    rows, gains = maximize(function, min(count, size), 256)
    return Picks(pick_ids(candidates.ids, rows), gains, {"words": lengths[rows].astype(np.float64)})


NGF_SMP = Strategy(
    "ngf_smp",
    needs=frozenset({"texts"}),
    parameters=NgfSmpParameters,
    select=_select,
    title="Frequent phrases without a label",
    why="The prompts of these examples hold many phrases that are frequent in the pool and occur "
    "in no labelled prompt. Each pick makes its phrases known before the next one is chosen.",
    score="Frequency in the pool of the phrases that the prompt adds, summed and divided by its "
    "length in words; larger was picked first.",
    parts={
        "words": "Length of the prompt in words.",
    },
    titles={
        "words": "words in the prompt",
    },
)
