"""How much texts have in common, for all pairs of a few texts at once."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Numbers
from atgen_ray.text.words import split_words

Counts = npt.NDArray[np.int64]
_ORDERS = 4


def pairwise_bleu(texts: Sequence[str]) -> Numbers:
    """Sentence BLEU of each text (row) against each other one as its reference (column), shape (m,
    m), from 0 to 1.

    BLEU-4 (Papineni et al., 2002) on words split at white space, with 1 added to matches and to
    totals for n > 1 (Lin and Och, COLING 2004) as sacrebleu's `add-k` does. A text against itself
    gives 1, also when it has no words.
    """
    words, order = _distinct(texts)
    lengths = np.array([len(text) for text in words])
    with np.errstate(divide="ignore"):
        total = np.zeros((len(words), len(words)))
        for size, (matches, grams) in enumerate(_overlaps(words, _ORDERS), start=1):
            smooth = int(size > 1)
            total += np.log(
                np.maximum(matches + smooth, 0) / np.maximum(grams + smooth, 1)[:, None]
            )
        brevity = np.minimum(0.0, 1 - lengths[None] / np.maximum(lengths, 1)[:, None])
    scores = np.exp(total / _ORDERS + brevity)
    scores[lengths == 0] = 0.0
    np.fill_diagonal(scores, 1.0)
    return np.asarray(scores[np.ix_(order, order)])


def pairwise_f1(texts: Sequence[str]) -> Numbers:
    """F1 between the lower-case words of every two texts, shape (m, m), symmetric, 1 for texts of
    the same words.
    """
    words, order = _distinct([text.lower() for text in texts])
    lengths = np.array([len(text) for text in words])
    matches, _ = next(_overlaps(words, 1))
    scores = 2 * matches / np.maximum(lengths[:, None] + lengths[None], 1)
    np.fill_diagonal(scores, 1.0)
    return np.asarray(scores[np.ix_(order, order)])


def _distinct(texts: Sequence[str]) -> tuple[list[tuple[str, ...]], Counts]:
    """The different texts as words, and which of them each text is: samples are often the same."""
    places: dict[tuple[str, ...], int] = {}
    order = [places.setdefault(tuple(split_words(text)), len(places)) for text in texts]
    return list(places), np.array(order, dtype=np.int64)


def _overlaps(texts: list[tuple[str, ...]], orders: int) -> Iterator[tuple[Counts, Counts]]:
    """For n-grams of 1 to `orders` words: how many every two texts share, (m, m), and how many each
    has, (m,).
    """
    for size in range(1, orders + 1):
        places: dict[tuple[str, ...], int] = {}
        grams = [
            [
                places.setdefault(text[start : start + size], len(places))
                for start in range(len(text) - size + 1)
            ]
            for text in texts
        ]
        counts = np.stack(
            [np.bincount(np.array(found, dtype=np.int64), minlength=len(places)) for found in grams]
        )
        shared = np.stack([np.minimum(counts, row).sum(axis=1) for row in counts])
        yield shared, counts.sum(axis=1)
