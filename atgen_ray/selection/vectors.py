"""Vectors by example id (embeddings and hidden states), and the space in which a strategy measures
distance.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.similarity import quantise
from atgen_ray.selection.strategy import Candidates, Needs


class States:
    """Vectors of any length by example id, such as hidden states or gradient embeddings of the
    target model.

    `vectors` has shape (n, d), and row i belongs to `ids[i]`. A row that is not finite stands for
    an example without a vector. The constructor raises ValueError when the shapes disagree or an id
    comes twice.
    """

    kind = "state"

    def __init__(
        self, ids: Sequence[str] | pa.StringArray, vectors: npt.NDArray[np.floating[Any]]
    ) -> None:
        self._vectors: Vectors = np.asarray(vectors, dtype=np.float32)
        self._ids = pa.array(ids, pa.string())
        if self._vectors.ndim != 2 or len(self._vectors) != len(ids):
            raise ValueError(
                f"{self.kind}s have shape {self._vectors.shape}, expected ({len(ids)}, d)"
            )
        if pc.count_distinct(self._ids).as_py() != len(ids):
            raise ValueError(f"{self.kind}s hold an id twice")

    def keep_known(self, ids: Sequence[str]) -> list[str]:
        """Return those of `ids` that have a vector here."""
        given = pa.array(ids, pa.string())
        known: list[str] = given.filter(pc.is_in(given, self._ids)).to_pylist()
        return known

    def take_all(self) -> Vectors:
        """Return all vectors, in the order of their ids."""
        return self._vectors[np.argsort(np.array(self._ids.to_pylist(), dtype=object))]

    def take(self, ids: Sequence[str]) -> Vectors:
        """Return the vectors of `ids` in that order, shape (len(ids), d); raise ValueError for an
        unknown id.
        """
        found = pc.index_in(pa.array(ids, pa.string()), self._ids)
        rows = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if (rows < 0).any():
            missing = ids[int((rows < 0).argmax())]
            raise ValueError(
                f"{(rows < 0).sum()} examples have no {self.kind}, the first is '{missing}'"
            )
        if len(rows) == len(self._vectors) and (rows == np.arange(len(rows))).all():
            return self._vectors  # a large pool is not copied
        return self._vectors[rows]


class Embeddings(States):
    """L2-normalised vectors by example id, kept quantised.

    The constructor also raises ValueError when a finite row is not of length 1 or 0.
    """

    kind = "embedding"

    def __init__(
        self, ids: Sequence[str] | pa.StringArray, vectors: npt.NDArray[np.floating[Any]]
    ) -> None:
        super().__init__(ids, vectors)
        # einsum makes no copy of the vectors of a large pool, unlike norm.
        norms = np.sqrt(np.einsum("ij,ij->i", self._vectors, self._vectors))
        wrong = np.isfinite(norms) & (norms != 0) & (np.abs(norms - 1) > 0.01)
        if wrong.any():
            first = self._ids[int(wrong.argmax())]
            raise ValueError(f"embedding of '{first}' is not L2-normalised")
        self._vectors = quantise(self._vectors)


def rows_finite(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Return which rows hold finite numbers only, shape (n,)."""
    # A float64 sum of float32 numbers cannot overflow, so only NaN and infinity make it non-finite.
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(vectors.sum(axis=1, dtype=np.float64)))


def quantised_vectors(candidates: Candidates) -> tuple[Integers, Vectors, Vectors]:
    """Return the rows of the candidates that have an embedding (u,), these embeddings quantised
    (u, d), and those of the labelled examples.
    """
    embeddings, labeled = candidates.vectors()
    usable = rows_finite(embeddings)
    kept = embeddings if usable.all() else embeddings[usable]
    return np.flatnonzero(usable), kept, labeled[rows_finite(labeled)]


Space = Literal["embeddings", "states"]


def space_needs(space: Space) -> Needs:
    """Return what a strategy needs to measure distance in `space`."""
    return frozenset({space})


def plain_vectors(candidates: Candidates, space: Space) -> tuple[Integers, Vectors, Vectors]:
    """Return the rows of the candidates that have a vector (u,), these vectors (u, d), and those of
    the labelled examples.
    """
    vectors, labeled = candidates.vectors() if space == "embeddings" else candidates.model_states()
    usable = rows_finite(vectors)
    return np.flatnonzero(usable), vectors[usable], labeled[rows_finite(labeled)]


def unit_vectors(candidates: Candidates, space: Space) -> tuple[Integers, Vectors, Vectors]:
    """Return what `plain_vectors` returns, with vectors of length 1 (or 0), quantised."""
    if space == "embeddings":
        return quantised_vectors(candidates)
    rows, vectors, labeled = plain_vectors(candidates, space)
    return rows, quantise(_normalize(vectors)), quantise(_normalize(labeled))


def _normalize(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def keep_known(
    rows: Integers, vectors: Vectors, values: Numbers
) -> tuple[Integers, Vectors, Numbers]:
    """Return rows (n,), vectors (n, d) and values (n,) without those whose value is NaN."""
    known = ~np.isnan(values)
    return rows[known], vectors[known], values[known]
