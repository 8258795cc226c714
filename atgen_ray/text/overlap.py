"""Overlap of texts by words and n-grams, for all pairs of a few texts at once."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Numbers
from atgen_ray.text.words import split_words

Counts = npt.NDArray[np.int64]
_ORDERS = 4


def pairwise_bleu(texts: Sequence[str]) -> Numbers:
    """Return the sentence BLEU of each text (row) with each text as its reference (column), shape
    (m, m), from 0 to 1.

    This is BLEU-4 (Papineni et al., 2002) on words, with 1 added to matches and to totals for n > 1
    (Lin and Och, COLING 2004) as sacrebleu's `add-k` does. A text against itself gives 1, also when
    it has no words.
    """
    words, order = _distinct(texts)
    lengths = np.array([len(text) for text in words])
    with np.errstate(divide="ignore"):
        total = np.zeros((len(words), len(words)))
        for size, (matches, grams) in enumerate(_overlaps(words, _ORDERS), start=1):
            added = int(size > 1)
            total += np.log(np.maximum(matches + added, 0) / np.maximum(grams + added, 1)[:, None])
        brevity = np.minimum(0.0, 1 - lengths[None] / np.maximum(lengths, 1)[:, None])
    scores = np.exp(total / _ORDERS + brevity)
    scores[lengths == 0] = 0.0
    np.fill_diagonal(scores, 1.0)
    return np.asarray(scores[np.ix_(order, order)])


def pairwise_f1(texts: Sequence[str]) -> Numbers:
    """Return the F1 between the lower-case words of every two texts, shape (m, m); the matrix is
    symmetric, and texts of the same words have 1.
    """
    words, order = _distinct([text.lower() for text in texts])
    lengths = np.array([len(text) for text in words])
    matches, _ = next(_overlaps(words, 1))
    scores = 2 * matches / np.maximum(lengths[:, None] + lengths[None], 1)
    np.fill_diagonal(scores, 1.0)
    return np.asarray(scores[np.ix_(order, order)])


def _distinct(texts: Sequence[str]) -> tuple[list[tuple[str, ...]], Counts]:
    """Return the different texts as words, and the index of each text among them.

    Sampled outputs are often the same, so this saves most comparisons.
    """
    index: dict[tuple[str, ...], int] = {}
    order = [index.setdefault(tuple(split_words(text)), len(index)) for text in texts]
    return list(index), np.array(order, dtype=np.int64)


def _overlaps(texts: list[tuple[str, ...]], orders: int) -> Iterator[tuple[Counts, Counts]]:
    """Yield, for n-grams of 1 to `orders` words, how many every two texts share, (m, m), and how
    many each text has, (m,).
    """
    for size in range(1, orders + 1):
        # Each n-gram becomes a number, so that a text is a vector of counts.
        index: dict[tuple[str, ...], int] = {}
        grams = [
            [
                index.setdefault(text[start : start + size], len(index))
                for start in range(len(text) - size + 1)
            ]
            for text in texts
        ]
        counts = np.stack(
            [np.bincount(np.array(found, dtype=np.int64), minlength=len(index)) for found in grams]
        )
        shared = np.stack([np.minimum(counts, row).sum(axis=1) for row in counts])
        yield shared, counts.sum(axis=1)
