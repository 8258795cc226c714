"""Near-duplicate detection by MinHash and locality-sensitive hashing (Leskovec et al., Mining of
Massive Datasets, chapter 3).

Rows are compared by the Jaccard similarity of their lower-cased word trigrams.
"""

import re
from collections.abc import Sequence

import numpy as np

PERMUTATIONS = 256
RECALL = 0.99  # share of the pairs exactly at the threshold that the bands must bring together
# Most rows of one bucket. A bucket that fills up belongs to phrases that the whole pool shares,
# which do not distinguish rows; without a limit such pools would take quadratic time.
BUCKET = 64
_WORD = re.compile(r"\w+")


def sign_texts(texts: list[str]) -> list[bytes]:
    """Return a MinHash signature of every text: 256 little-endian unsigned 32-bit numbers.

    Texts of fewer than three words are compared as a whole, and texts without words as they are.
    """
    from datasketch import MinHash

    signed = MinHash.generator(map(_shingle, texts), num_perm=PERMUTATIONS)
    return [each.hashvalues.astype("<u4").tobytes() for each in signed]


def _shingle(text: str) -> list[bytes]:
    """Return the word trigrams of a text."""
    lowered = text.lower()
    words = _WORD.findall(lowered) or [lowered.strip()]
    size = min(3, len(words))
    return [
        gram.encode()
        for gram in {" ".join(words[at : at + size]) for at in range(len(words) - size + 1)}
    ]


def find_duplicates(
    ids: Sequence[str], signatures: Sequence[bytes], threshold: float
) -> list[str | None]:
    """Return for every row, in order, the id of the earliest original that it duplicates, or None
    for an original.

    Rows are compared with originals only, so no row points to a duplicate. `threshold` is the
    estimated Jaccard similarity from which two rows are duplicates.
    """
    matrix = np.frombuffer(b"".join(signatures), dtype="<u4").reshape(len(ids), PERMUTATIONS)
    keys = _hash_bands(matrix, *_choose_bands(threshold))
    tables: list[dict[int, list[int]]] = [{} for _ in range(keys.shape[1])]
    identical: dict[bytes, int] = {}
    duplicate_of: list[str | None] = [None] * len(ids)
    # Rows with the same signature are looked up directly, the others by the buckets of their bands.
    for row, signature in enumerate(signatures):
        original = identical.get(signature)
        if original is None:
            buckets = [
                table.setdefault(key, [])
                for table, key in zip(tables, keys[row].tolist(), strict=True)
            ]
            candidates = sorted(set().union(*buckets))
            similar = np.flatnonzero((matrix[candidates] == matrix[row]).mean(axis=1) >= threshold)
            if similar.size:
                original = candidates[similar[0]]
            else:
                for bucket in buckets:
                    if len(bucket) < BUCKET:
                        bucket.append(row)
            identical[signature] = row if original is None else original
        if original is not None:
            duplicate_of[row] = ids[original]
    return duplicate_of


def _choose_bands(threshold: float) -> tuple[int, int]:
    """Return the number of bands and numbers per band: the most selective choice that still finds
    RECALL of the pairs at the threshold.
    """
    for size in range(PERMUTATIONS // 2, 1, -1):
        bands = PERMUTATIONS // size
        if 1 - (1 - threshold**size) ** bands >= RECALL:
            return bands, size
    return PERMUTATIONS, 1


def _hash_bands(matrix: np.ndarray, bands: int, size: int) -> np.ndarray:
    """Return a 64-bit key of every band, shape (rows, bands); a collision costs one comparison, no
    more.
    """
    multipliers = np.random.default_rng(0).integers(1, 2**63, size=size, dtype=np.uint64)
    keys = [
        matrix[:, band * size : (band + 1) * size].astype(np.uint64) @ multipliers
        for band in range(bands)
    ]
    return np.stack(keys, axis=1)
