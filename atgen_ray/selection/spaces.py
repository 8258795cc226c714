"""The space in which a strategy measures distance."""

from typing import Literal

import numpy as np

from atgen_ray.core.arrays import Integers, Vectors
from atgen_ray.selection.contract import Candidates, Needs
from atgen_ray.selection.kernels.similarity import to_grid
from atgen_ray.selection.vectors import grid_vectors, rows_finite

Space = Literal["embeddings", "states"]


def space_needs(space: Space) -> Needs:
    """What must be known to measure in `space`."""
    return frozenset({space})


def plain_vectors(candidates: Candidates, space: Space) -> tuple[Integers, Vectors, Vectors]:
    """Rows of the candidates that have a vector (u,), these vectors (u, d), and those of the labelled examples."""
    vectors, labeled = candidates.vectors() if space == "embeddings" else candidates.model_states()
    usable = rows_finite(vectors)
    return np.flatnonzero(usable), vectors[usable], labeled[rows_finite(labeled)]


def unit_vectors(candidates: Candidates, space: Space) -> tuple[Integers, Vectors, Vectors]:
    """The same, of length 1 (or 0) and on the grid of similarities."""
    if space == "embeddings":
        return grid_vectors(candidates)
    rows, vectors, labeled = plain_vectors(candidates, space)
    return rows, to_grid(_normalize(vectors)), to_grid(_normalize(labeled))


def _normalize(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
