"""Near-duplicate detection by MinHash and locality-sensitive hashing (Leskovec et al., Mining of
Massive Datasets, chapter 3).

Rows are compared by the Jaccard similarity of their lower-cased word trigrams. Only rows that share
a band with another row are looked at one by one, so that the memory of a large pool is some numbers
a row, and its signatures stay in blocks.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Integers

PERMUTATIONS = 256
RECALL = 0.99  # share of the pairs exactly at the threshold that the bands must bring together
# Most rows of one bucket. A bucket that fills up belongs to phrases that the whole pool shares,
# which do not distinguish rows; without a limit such pools would take quadratic time.
BUCKET = 64
BANDS = 6  # bands whose keys are held at once
Signatures = npt.NDArray[np.uint32]  # (rows, PERMUTATIONS)
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


def read_signatures(signatures: bytes | memoryview) -> Signatures:
    """Return the signatures of `sign_texts`, one after the other, as a table without a copy."""
    return np.frombuffer(signatures, dtype="<u4").reshape(-1, PERMUTATIONS)


def find_duplicates(blocks: Iterable[Signatures], threshold: float) -> tuple[Integers, Integers]:
    """Return the rows that are near-duplicates, ascending, and for each the earliest original that
    it duplicates.

    Rows are compared with originals only, so no row points to a duplicate. `threshold` is the
    estimated Jaccard similarity from which two rows are duplicates. `blocks` hold the signatures in
    the order of the rows and are gone through several times.
    """
    rows, buckets, sizes = _find_shared(blocks, threshold)
    order = np.argsort(rows, kind="stable")
    suspects, begins = np.unique(rows[order], return_index=True)
    buckets = buckets[order]
    ends = np.append(begins[1:], len(rows))
    starts = np.cumsum(np.minimum(sizes, BUCKET)) - np.minimum(sizes, BUCKET)
    filled = np.zeros(len(sizes), np.int64)
    members = np.empty(int(np.minimum(sizes, BUCKET).sum()), np.int64)
    originals = np.full(len(suspects), -1)
    identical: dict[bytes, int] = {}
    with tempfile.TemporaryFile(prefix="atgen-signatures-") as file:
        matrix = _gather(blocks, suspects, file)
        # Rows with the same signature are looked up directly, the others by their buckets.
        for row, signature in enumerate(matrix):
            key = hashlib.blake2b(signature.tobytes(), digest_size=16).digest()
            original = identical.get(key)
            if original is None:
                mine = buckets[begins[row] : ends[row]]
                found = [members[starts[each] : starts[each] + filled[each]] for each in mine]
                candidates = np.unique(np.concatenate(found))
                similar = (matrix[candidates] == signature).mean(axis=1) >= threshold
                if similar.any():
                    original = int(candidates[similar.argmax()])
                else:
                    open_ = mine[filled[mine] < BUCKET]
                    members[starts[open_] + filled[open_]] = row
                    filled[open_] += 1
                identical[key] = row if original is None else original
            if original is not None:
                originals[row] = original
    marked = originals >= 0
    return suspects[marked], suspects[originals[marked]]


def _find_shared(
    blocks: Iterable[Signatures], threshold: float
) -> tuple[Integers, Integers, Integers]:
    """Return rows and their buckets, a pair for each band that a row shares with another row, and
    the number of rows of each bucket.
    """
    count, size = _choose_bands(threshold)
    rows = [np.empty(0, np.int64)]
    buckets = [np.empty(0, np.int64)]
    sizes = [np.empty(0, np.int64)]
    numbered = 0
    for begin in range(0, count, BANDS):
        bands = range(begin, min(begin + BANDS, count))
        hashed = [_hash_bands(block, bands, size) for block in blocks if len(block)]
        for keys in np.concatenate(hashed, axis=1) if hashed else ():
            order = np.argsort(keys, kind="stable")
            new = np.append(True, np.diff(keys[order]) != 0)
            first = np.flatnonzero(new)
            lengths = np.diff(np.append(first, len(keys)))
            shared = lengths > 1
            rows.append(order[np.repeat(shared, lengths)])
            numbers = np.arange(numbered, numbered + int(shared.sum()))
            buckets.append(np.repeat(numbers, lengths[shared]))
            sizes.append(lengths[shared])
            numbered += len(numbers)
    return np.concatenate(rows), np.concatenate(buckets), np.concatenate(sizes)


def _gather(blocks: Iterable[Signatures], rows: Integers, file: Any) -> Signatures:
    """Return the signatures of `rows`, ascending, in a file that is mapped into memory."""
    if not len(rows):
        return np.empty((0, PERMUTATIONS), np.uint32)
    matrix = np.memmap(file, np.dtype("<u4"), "w+", shape=(len(rows), PERMUTATIONS))
    begin = 0
    for block in blocks:
        first, last = np.searchsorted(rows, (begin, begin + len(block)))
        matrix[first:last] = block[rows[first:last] - begin]
        begin += len(block)
    return np.asarray(matrix)


def _choose_bands(threshold: float) -> tuple[int, int]:
    """Return the number of bands and numbers per band: the most selective choice that still finds
    RECALL of the pairs at the threshold.
    """
    for size in range(PERMUTATIONS // 2, 1, -1):
        bands = PERMUTATIONS // size
        if 1 - (1 - threshold**size) ** bands >= RECALL:
            return bands, size
    return PERMUTATIONS, 1


def _hash_bands(matrix: Signatures, bands: Iterable[int], size: int) -> npt.NDArray[np.uint64]:
    """Return a 64-bit key of each of `bands`, shape (bands, rows); a collision costs one
    comparison, no more.
    """
    multipliers = np.random.default_rng(0).integers(1, 2**63, size=size, dtype=np.uint64)
    keys = [
        matrix[:, band * size : (band + 1) * size].astype(np.uint64) @ multipliers for band in bands
    ]
    return np.stack(keys)
