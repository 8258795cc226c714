"""BLEU and chrF by the sacrebleu package (Post, WMT 2018), from 0 to 100.

The value of a set is the package's corpus score, which is no mean of sentence scores. Every example
may have a number of references of its own.
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
    """One metric of the package, with a tokenizer that fits the references' script."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """The sentence score; BLEU over the orders that a short answer has at all."""
        if not references:
            return math.nan
        # Where it is exactly right, rounding inside the package may leave a little more than 100.
        return min(
            100.0,
            float(self._metric(references).sentence_score(prediction, list(references)).score),
        )

    def counts(self, cases: Sequence[Case]) -> npt.NDArray[np.float64]:
        """What is counted in every case, each with references, (n, k)."""
        rows = []
        for case in cases:
            metric = self._metric(case.references)
            rows += metric._extract_corpus_statistics(
                [case.prediction], [[text] for text in case.references]
            )
        return np.array(rows, dtype=np.float64)

    def combine(self, counts: npt.NDArray[np.float64]) -> float:
        """The corpus score of summed counts."""
        metric = _make(self._kind, "13a", False)
        return min(
            100.0, float(metric._compute_score_from_stats([round(count) for count in counts]).score)
        )

    def _metric(self, references: Sequence[str]) -> Any:
        text = " ".join(references)
        tokenizer = (
            "13a"
            if not is_unspaced(text)
            else "char"
            if has_kana(text) or _lacks_han(text)
            else "zh"
        )
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
