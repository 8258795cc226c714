"""Word numbers of texts, for strategies that count words."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from atgen_ray.core.arrays import Integers
from atgen_ray.text.words import split_words

_WORD = re.compile(r"\w+")


def number_words(texts: Sequence[str], stem: bool) -> tuple[Integers, Integers, int]:
    """Return all words of `texts` one after another as numbers, the number of words of each text,
    and the size of the vocabulary.

    Words are lower-case runs of letters and digits, or single characters in scripts without spaces;
    `stem` reduces English ones by Porter's algorithm.
    """
    normal: Callable[[str], str] = _stem if stem else str
    numbers: dict[str, int] = {}
    words: list[int] = []
    lengths = np.empty(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        found = split_words(" ".join(_WORD.findall(text.lower())))
        words += [numbers.setdefault(normal(word), len(numbers)) for word in found]
        lengths[row] = len(found)
    return np.array(words, dtype=np.int64), lengths, len(numbers)


@lru_cache(maxsize=2**18)
def _stem(word: str) -> str:
    return str(_stemmer().stem(word))


@lru_cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
