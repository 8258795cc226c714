"""Exact match and token F1 of short answers, normalised as by TriviaQA's or by SQuAD's script.

`exact_match` and `token_f1` follow the official TriviaQA script, which extends SQuAD's: lower case,
articles removed, punctuation replaced by a space (so that "1.5" is not "15"), white space squeezed.
The script knows ASCII only; here every Unicode punctuation mark counts, the digits of every script
are the same digits, Arabic vowel signs do not count, and text without spaces between words is
compared by character.

`squad_exact_match` and `squad_f1` follow the official SQuAD script (Rajpurkar et al., EMNLP 2016),
for comparison with papers. It deletes punctuation, so that "1.5" equals "15" and "state-of-the-art"
is one word.
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
    """Return 1 when the prediction equals a reference after normalisation, else 0; NaN without
    references.
    """
    return max(
        (float(_normalize(prediction) == _normalize(reference)) for reference in references),
        default=math.nan,
    )


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the largest F1 between the normalised tokens of the prediction and those of a
    reference; 1 when both are empty, NaN without references.
    """
    return max(
        (_f1(_normalize(prediction), _normalize(reference)) for reference in references),
        default=math.nan,
    )


def _f1(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Return the F1 of two bags of tokens; of empty ones 1 when both are empty, else 0."""
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


_UNMARKED = str.maketrans("", "", string.punctuation)


def squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 when the prediction equals a reference after SQuAD's normalisation, else 0."""
    return max(
        (float(_words(prediction) == _words(reference)) for reference in references),
        default=math.nan,
    )


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the largest F1 between the words of the prediction and those of a reference."""
    return max(
        (_f1(_words(prediction), _words(reference)) for reference in references),
        default=math.nan,
    )


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_UNMARKED)).split()
