"""Exact match and token F1 of short answers.

Normalisation is that of the official TriviaQA script, which extends SQuAD's: lower case, articles
and punctuation removed, white space squeezed. A punctuation mark becomes a space, as there, so that
"1.5" is not "15". Beyond the scripts, which know ASCII only, every Unicode punctuation mark counts
as one, the digits of every script are the same digits, Arabic vowel signs do not count, and text
without spaces between words is compared by character.

Exact match and F1 as the official SQuAD script computes them (Rajpurkar et al., EMNLP 2016), for
comparison.

Punctuation vanishes there instead of parting words, so that "1.5" equals "15" and
"state-of-the-art" is one word. `exact_match` and `token_f1`, which follow TriviaQA's script, know
better; take those unless a paper is to be matched.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from atgen_ray.text.words import fold_characters, split_words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = frozenset(string.punctuation + "´")


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 when the prediction equals a reference after normalisation, else 0; NaN without
    references.
    """
    return max(
        (float(_normalize(prediction) == _normalize(reference)) for reference in references),
        default=math.nan,
    )


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Largest F1 between the normalised tokens of the prediction and those of a reference; 1 when
    both are empty.

    NaN without references.
    """
    return max(
        (_f1(_normalize(prediction), _normalize(reference)) for reference in references),
        default=math.nan,
    )


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


_ARTICLES_squad = re.compile(r"\b(a|an|the)\b")
_UNMARKED = str.maketrans("", "", string.punctuation)


def squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 when the prediction equals a reference after SQuAD's normalisation, else 0."""
    return max(
        (float(_words(prediction) == _words(reference)) for reference in references),
        default=math.nan,
    )


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """Largest F1 between the words of the prediction and those of a reference."""
    return max(
        (_f1_squad(_words(prediction), _words(reference)) for reference in references),
        default=math.nan,
    )


def _words(text: str) -> list[str]:
    return _ARTICLES_squad.sub(" ", text.lower().translate(_UNMARKED)).split()


def _f1_squad(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))
