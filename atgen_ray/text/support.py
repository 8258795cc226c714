"""Source support: how far an output is supported by its source, judged by the two texts alone.

The measures replace trained faithfulness models where none can be downloaded. They compare names,
figures, words and sentences of the output with those of the source; they cannot tell whether the
output makes a true statement of them. Each maps sources and outputs of n examples to n numbers from
0 (nothing is found in the source) to 1 (everything is); NaN for an output without words.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from atgen_ray.core.arrays import Numbers
from atgen_ray.text.words import split_words

Faithfulness = Callable[[Sequence[str], Sequence[str]], Numbers]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[。！？])")
_LEAST_OVERLAP = 0.5  # words with less overlap than this do not support each other


def entity_support(sources: Sequence[str], outputs: Sequence[str]) -> Numbers:
    """Return the share of the output's names and figures found in the source; 1 if it has none.

    Names are words with a capital letter after the first word of a sentence; figures are words with
    a digit.
    """
    return _each(_entity_support, sources, outputs)


def sentence_support(sources: Sequence[str], outputs: Sequence[str]) -> Numbers:
    """Return the mean over the output's sentences of the largest cosine between the counts of their
    words and letter trigrams and those of a sentence of the source.
    """
    return _each(_sentence_support, sources, outputs)


def word_support(sources: Sequence[str], outputs: Sequence[str]) -> Numbers:
    """Return the mean over the output's words of the overlap (Dice) of their letter trigrams with
    those of the best match in the source.

    This is BERTScore's greedy precision (Zhang et al., ICLR 2020) with spelling in place of
    contextual embeddings; matches under one half count as 0.
    """
    return _each(_word_support, sources, outputs)


FAITHFULNESS: dict[str, Faithfulness] = {
    "source_support_entities": entity_support,
    "source_support_sentences": sentence_support,
    "source_support_words": word_support,
}


def _each(
    support: Callable[[str, str], float], sources: Sequence[str], outputs: Sequence[str]
) -> Numbers:
    pairs = zip(sources, outputs, strict=True)
    return np.array(
        [support(source, output) if _words(output) else np.nan for source, output in pairs]
    )


def _entity_support(source: str, output: str) -> float:
    known = set(_words(source))
    named = [
        word.lower()
        for sentence in split_sentences(output)
        for index, word in enumerate(re.findall(r"\w+", sentence))
        if any(character.isdigit() for character in word) or (index and word[0].isupper())
    ]
    return sum(word in known for word in named) / len(named) if named else 1.0


def _sentence_support(source: str, output: str) -> float:
    profiles = [_profile(sentence) for sentence in split_sentences(source)]
    found = [
        max((_cosine(_profile(sentence), other) for other in profiles), default=0.0)
        for sentence in split_sentences(output)
    ]
    return float(np.mean(found))


def _word_support(source: str, output: str) -> float:
    known = set(_words(source))
    # An index of the source's words by trigram: comparing every two words takes too long.
    holders = defaultdict(list)
    for word in known:
        for trigram in _trigrams(word):
            holders[trigram].append(word)
    return float(
        np.mean([1.0 if word in known else _best_match(word, holders) for word in _words(output)])
    )


def _best_match(word: str, holders: Mapping[str, Sequence[str]]) -> float:
    """Return the largest overlap of `word` with a word of the source, or 0 if it is too small."""
    shared = Counter(other for trigram in _trigrams(word) for other in holders.get(trigram, ()))
    alike = (
        2 * count / (len(_trigrams(word)) + len(_trigrams(other)))
        for other, count in shared.items()
    )
    best = max(alike, default=0.0)
    return best if best >= _LEAST_OVERLAP else 0.0


def split_sentences(text: str) -> list[str]:
    """Return the sentences of `text` that hold a word, split at punctuation and line ends."""
    return [sentence for sentence in _SENTENCE_END.split(text) if _words(sentence)]


def _profile(sentence: str) -> Counter[str]:
    words = _words(sentence)
    return Counter(words) + Counter(trigram for word in words for trigram in _trigrams(word))


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    product = sum(count * other[key] for key, count in one.items())
    norms = sum(count**2 for count in one.values()) * sum(count**2 for count in other.values())
    return min(1.0, float(product / np.sqrt(norms)))


def _words(text: str) -> list[str]:
    return split_words(" ".join(re.findall(r"\w+", text.lower())))


@lru_cache(maxsize=65536)
def _trigrams(word: str) -> frozenset[str]:
    marked = f"^{word}$"
    return frozenset(marked[start : start + 3] for start in range(max(1, len(marked) - 2)))
