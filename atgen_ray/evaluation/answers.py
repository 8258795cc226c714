"""Exact match and token F1 of short answers.

Normalisation is that of the official TriviaQA script, which extends SQuAD's: lower case, articles and punctuation
removed, white space squeezed. A punctuation mark becomes a space, as there, so that "1.5" is not "15". Beyond the
scripts, which know ASCII only, every Unicode punctuation mark counts as one, the digits of every script are the same
digits, Arabic vowel signs do not count, and text without spaces between words is compared by character.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from atgen_ray.evaluation.segmentation import fold_characters, split_words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = frozenset(string.punctuation + "´")


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 when the prediction equals a reference after normalisation, else 0; NaN without references."""
    return max((float(_normalize(prediction) == _normalize(reference)) for reference in references), default=math.nan)


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Largest F1 between the normalised tokens of the prediction and those of a reference; 1 when both are empty.

    NaN without references.
    """
    return max((_f1(_normalize(prediction), _normalize(reference)) for reference in references), default=math.nan)


def _f1(predicted: tuple[str, ...], expected: tuple[str, ...]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


@lru_cache(maxsize=4096)
def _normalize(text: str) -> tuple[str, ...]:
    lowered = fold_characters(unicodedata.normalize("NFC", text)).casefold()
    unmarked = "".join(" " if _is_mark(character) else character for character in lowered)
    return tuple(split_words(_ARTICLES.sub(" ", unmarked)))


def _is_mark(character: str) -> bool:
    return character in _MARKS or unicodedata.category(character).startswith("P")
