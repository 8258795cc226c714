"""Whitening of vectors: the mean of the pool removed, and its principal components scaled alike.

Hidden states of language models point almost all the same way, and a few directions hold most of
their variance, so that every cosine similarity is near 1. Whitening undoes that (Su et al., arXiv
2103.15316); for the selection of instruction data see CRDS-W (arXiv 2602.13773).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atgen_ray.core.arrays import Vectors
from atgen_ray.core.errors import UserError

SAMPLE = 10_000  # vectors at most by which mean and components are measured
_LEAST_SHARE = 1e-10  # of the largest variance, below which a component is rounding
_BLOCK = 4096

Whiten = Literal["off", "center"] | int
Matrix = npt.NDArray[np.float64]
WHITENING_SCHEMA = pa.schema([("vector", pa.list_(pa.float64()))])


@dataclass(frozen=True)
class Whitening:
    """A linear map of vectors (d,), and the length 1 of what comes out.

    Attributes:
        mean: of the pool, (d,).
        components: (k, d), each divided by the standard deviation along it; None keeps all
            directions as they are.
    """

    mean: Matrix
    components: Matrix | None = None

    def apply(self, vectors: Vectors) -> Vectors:
        """Return `vectors` (n, d) in the new space, of length 1, or 0 where nothing is left; a row
        that is not finite stays so.
        """
        if not vectors.size:
            return vectors
        width = len(self.mean if self.components is None else self.components)
        found = np.empty((len(vectors), width), np.float32)
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            # float64: equal rows stay equal after rounding, in whatever block they come.
            rows = vectors[part].astype(np.float64) - self.mean
            if self.components is not None:
                rows = rows @ self.components.T
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            # What is left of a vector that is the mean itself is rounding and has no direction.
            lengths = np.where(lengths < 1e-6, np.inf, lengths)
            found[part] = np.where(np.isfinite(rows), rows / lengths, np.nan)
        return found


def fit_whitening(vectors: Vectors, whiten: Whiten) -> Whitening | None:
    """Return the whitening of a pool of which `vectors` (n, d) are a sample; None for "off".

    Raises:
        UserError: `whiten` asks for more components than the vectors have.
    """
    known = vectors[np.isfinite(vectors).all(axis=1)].astype(np.float64)
    if whiten == "off" or not len(known):
        return None
    mean = known.mean(axis=0)
    if whiten == "center":
        return Whitening(mean)
    spread = known - mean
    variances, directions = np.linalg.eigh(spread.T @ spread / max(1, len(known) - 1))
    variances, directions = variances[::-1], directions.T[::-1]  # the largest first
    rank = int((variances > _LEAST_SHARE * variances[0]).sum()) if variances[0] > 0 else 0
    if whiten > rank:
        raise UserError(
            f"embedding.whiten is {whiten}, but the vectors of this pool have {rank} principal "
            f"components, expected at most {rank}, 'center' or 'off'"
        )
    return Whitening(mean, directions[:whiten] / np.sqrt(variances[:whiten, None]))


def store_whitening(whitening: Whitening | None) -> pa.Table:
    """Return a table of WHITENING_SCHEMA: the mean, then the components; empty without any."""
    rows: list[Matrix] = []
    if whitening is not None:
        rows = [whitening.mean, *(() if whitening.components is None else whitening.components)]
    return pa.table({"vector": pa.array(rows, pa.list_(pa.float64()))}, schema=WHITENING_SCHEMA)


def read_whitening(table: pa.Table) -> Whitening | None:
    """Return what `store_whitening` stored."""
    rows = np.array(table["vector"].to_pylist(), np.float64)
    if not len(rows):
        return None
    return Whitening(rows[0], rows[1:] if len(rows) > 1 else None)
