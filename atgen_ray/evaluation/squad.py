"""Exact match and F1 as the official SQuAD script computes them (Rajpurkar et al., EMNLP 2016), for comparison.

Punctuation vanishes there instead of parting words, so that "1.5" equals "15" and "state-of-the-art" is one word.
`exact_match` and `token_f1`, which follow TriviaQA's script, know better; take those unless a paper is to be matched.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNMARKED = str.maketrans("", "", string.punctuation)


def squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 when the prediction equals a reference after SQuAD's normalisation, else 0."""
    return max((float(_words(prediction) == _words(reference)) for reference in references), default=math.nan)


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """Largest F1 between the words of the prediction and those of a reference."""
    return max((_f1(_words(prediction), _words(reference)) for reference in references), default=math.nan)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_UNMARKED)).split()


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))
