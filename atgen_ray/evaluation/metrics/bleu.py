"""BLEU and chrF by the sacrebleu package (Post, WMT 2018), from 0 to 100.

The value of a set is the package's corpus score, not a mean of sentence scores. Examples may differ
in their number of references.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from atgen_ray.evaluation.metric import Case
from atgen_ray.text.words import has_kana, is_unspaced


class _Sacrebleu:
    """A metric of the package, with the tokenizer for the script of the references."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Return the sentence score; BLEU uses only the n-gram orders that a short answer has."""
        if not references:
            return math.nan
        score = self._metric(references).sentence_score(prediction, list(references)).score
        return min(100.0, float(score))  # rounding in the package may leave a little more than 100

    def counts(self, cases: Sequence[Case]) -> npt.NDArray[np.float64]:
        """Return the counts of every case that the corpus score sums up, (n, k)."""
        rows = []
        for case in cases:
            metric = self._metric(case.references)
            # The package has no public way to resample: its own bootstrap uses these counts.
            rows += metric._extract_corpus_statistics(
                [case.prediction], [[text] for text in case.references]
            )
        return np.array(rows, dtype=np.float64)

    def combine(self, counts: npt.NDArray[np.float64]) -> float:
        """Return the corpus score of summed counts."""
        metric = _make(self._kind, "13a", False)
        score = metric._compute_score_from_stats([round(count) for count in counts]).score
        return min(100.0, float(score))

    def _metric(self, references: Sequence[str]) -> Any:
        """Return the metric with a tokenizer for the script: Chinese has one of its own; other
        scripts without spaces, such as Japanese or Thai, are split into characters.
        """
        text = " ".join(references)
        tokenizer = "13a"
        if is_unspaced(text):
            tokenizer = "char" if has_kana(text) or _lacks_han(text) else "zh"
        return _make(self._kind, tokenizer, True)


def _lacks_han(text: str) -> bool:
    return not any(
        "\u3400" <= character <= "\u9fff" or character >= "\U00020000" for character in text
    )


@lru_cache
def _make(kind: str, tokenizer: str, sentence: bool) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(tokenize=tokenizer, effective_order=sentence) if kind == "bleu" else CHRF()


BLEU = _Sacrebleu("bleu")
CHRF = _Sacrebleu("chrf")
