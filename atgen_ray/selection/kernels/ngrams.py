"""Phrases: frequent n-grams that are not merely pieces of longer frequent n-grams."""

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers


def find_phrases(
    words: Integers, lengths: Integers, counted: int, longest: int, least: int, share: float
) -> tuple[Integers, Integers, Numbers]:
    """Return the semi-maximal phrases of up to `longest` words in texts given as word numbers one
    after another.

    An n-gram is a phrase when it occurs `least` times or more among the first `counted` texts and
    no n-gram longer by one word that holds it occurs more than `share` times as often (Miura et
    al., NAACL 2016).

    Returns:
        The text and the number of the phrase of every occurrence, texts in order, and the count of
        each phrase in the first `counted` texts.
    """
    text_of = np.repeat(np.arange(len(lengths)), lengths)
    grams = _renumber(words)
    starts = np.arange(len(words))
    found: list[tuple[Integers, Integers, Numbers]] = []
    for size in range(1, longest + 1):
        counts = np.bincount(grams[text_of[starts] < counted], minlength=grams.max(initial=-1) + 1)
        longer, longer_starts = _extend(words, text_of, grams, starts)
        maximal = np.ones(len(counts), dtype=bool)
        if size < longest and len(longer):
            longer_counts = np.bincount(
                longer[text_of[longer_starts] < counted], minlength=longer.max() + 1
            )
            gram_at = np.full(len(words), -1)
            gram_at[starts] = grams
            # A longer n-gram holds two of this size: the one at its start and the one after.
            for inner in (gram_at[longer_starts], gram_at[longer_starts + 1]):
                maximal[inner[longer_counts[longer] > share * counts[inner]]] = False
        kept = maximal & (counts >= least)
        inside = kept[grams]
        found.append((text_of[starts[inside]], grams[inside], counts.astype(np.float64)))
        grams = longer
        starts = longer_starts
    return _join(found)


def _extend(
    words: Integers, text_of: Integers, grams: Integers, starts: Integers
) -> tuple[Integers, Integers]:
    """Return the n-grams that are longer by one word: their numbers and where they start."""
    gram_at = np.full(len(words) + 1, -1)
    gram_at[starts] = grams
    paired = starts[gram_at[starts + 1] >= 0]
    paired = paired[text_of[paired] == text_of[paired + 1]]
    if not len(paired):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    # Two n-grams that overlap in all but one word make the longer one.
    return _renumber(gram_at[paired] * (grams.max() + 1) + gram_at[paired + 1]), paired


def _renumber(keys: Integers) -> Integers:
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _join(found: list[tuple[Integers, Integers, Numbers]]) -> tuple[Integers, Integers, Numbers]:
    offsets = np.cumsum([0, *(len(counts) for _, _, counts in found)])
    texts = np.concatenate([part[0] for part in found])
    numbers = np.concatenate(
        [part[1] + offset for part, offset in zip(found, offsets, strict=False)]
    )
    order = np.argsort(texts, kind="stable")
    return texts[order], numbers[order], np.concatenate([part[2] for part in found])


class PhraseCoverage:
    """Summed worth of the phrases of a growing set of texts; a text gains its new phrases' worth
    over its length. Implements `greedy.Coverage`.
    """

    def __init__(
        self, texts: Integers, phrases: Integers, worth: Numbers, lengths: Numbers
    ) -> None:
        """Take every occurrence as a pair of `texts` (sorted) and `phrases`; `worth` (p,) is 0 for
        phrases that are known already.
        """
        self.size = len(lengths)
        pairs = np.unique(np.stack([texts, phrases]), axis=1)
        self._phrases = pairs[1]
        self._worth = worth.copy()
        self._lengths = np.maximum(lengths, 1)
        self._starts = np.searchsorted(pairs[0], np.arange(self.size + 1))

    def gains(self, rows: Integers) -> Numbers:
        """Return the worth of the phrases that each of `rows` would add, over its length."""
        spans = (self._phrases[self._starts[row] : self._starts[row + 1]] for row in rows)
        return np.array([self._worth[span].sum() for span in spans]) / self._lengths[rows]

    def add(self, row: int) -> None:
        """Add the text `row`: its phrases are known from now on."""
        self._worth[self._phrases[self._starts[row] : self._starts[row + 1]]] = 0.0
