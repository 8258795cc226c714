"""Length, abstractiveness and repetition of answers, by words and n-grams of words.

Lengths and abstractiveness only describe the answers: no direction is better.
"""

import math
import re
from collections.abc import Sequence

from atgen_ray.text.words import split_words


def list_words(text: str) -> list[str]:
    """Return the lower-case words of a text in any script, without punctuation."""
    return split_words(" ".join(re.findall(r"\w+", text.lower())))


def count_words(text: str) -> float:
    """Return the number of words of `text`."""
    return float(len(list_words(text)))


def length_ratio(prediction: str, references: Sequence[str]) -> float:
    """Return the words of the prediction over those of the reference that is nearest in length."""
    if not references:
        return math.nan
    length = count_words(prediction)
    nearest = min(
        (count_words(reference) for reference in references),
        key=lambda other: (abs(length - other), other),
    )
    return length / max(1.0, nearest)


def source_length_ratio(prediction: str, source: str) -> float:
    """Return the words of the prediction over those of the source."""
    return count_words(prediction) / max(1.0, count_words(source))


def novel_ngrams(order: int, prediction: str, source: str) -> float:
    """Return the share of the prediction's n-grams that the source does not have (See et al., ACL
    2017); 0 without n-grams.
    """
    known = set(_ngrams(source, order))
    grams = _ngrams(prediction, order)
    return sum(gram not in known for gram in grams) / len(grams) if grams else 0.0


def repetition(prediction: str, order: int = 3) -> float:
    """Return the share of the prediction's trigrams that repeat an earlier one (Welleck et al.,
    ICLR 2020); 0 without trigrams.
    """
    grams = _ngrams(prediction, order)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(text: str, order: int) -> list[tuple[str, ...]]:
    words = list_words(text)
    return [tuple(words[at : at + order]) for at in range(len(words) - order + 1)]
