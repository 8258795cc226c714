"""What a query strategy is given and what it gives back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from atgen_ray.selection.kernels import Numbers

Need = Literal["embeddings", "generations", "samples"]
Vectors = npt.NDArray[np.float32]


class Parameters(BaseModel):
    """Base of every strategy's parameters: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Embeddings:
    """L2-normalised vectors by example id.

    `vectors` has shape (n, d), row i belonging to `ids[i]`. A row that is not finite stands for a text that could not
    be embedded. Raises ValueError when the shapes disagree, an id comes twice or a finite row is not of length 1 or 0.
    """

    def __init__(self, ids: Sequence[str], vectors: npt.NDArray[np.floating[Any]]) -> None:
        self._vectors: Vectors = np.asarray(vectors, dtype=np.float32)
        self._rows = {id: row for row, id in enumerate(ids)}
        if self._vectors.ndim != 2 or len(self._vectors) != len(ids):
            raise ValueError(f"embeddings have shape {self._vectors.shape}, expected ({len(ids)}, d)")
        if len(self._rows) != len(ids):
            raise ValueError("embeddings hold an id twice")
        norms = np.linalg.norm(self._vectors, axis=1)
        wrong = np.isfinite(norms) & (norms != 0) & (np.abs(norms - 1) > 0.01)
        if wrong.any():
            raise ValueError(f"embedding of '{ids[int(wrong.argmax())]}' is not L2-normalised")

    def take(self, ids: Sequence[str]) -> Vectors:
        """The vectors of `ids` in that order, shape (len(ids), d). Raises ValueError for an unknown id."""
        missing = [id for id in ids if id not in self._rows]
        if missing:
            raise ValueError(f"{len(missing)} examples have no embedding, the first is '{missing[0]}'")
        return self._vectors[[self._rows[id] for id in ids]]


@dataclass(frozen=True)
class Candidates:
    """The examples that may be picked, and what is known about them.

    A strategy sees only what it declares in `Strategy.needs`; the rest is None. Row i of every array is `ids[i]`.
    """

    ids: tuple[str, ...]  # sorted, so that the order of the pool can never matter
    embeddings: Vectors | None  # (n, d), L2-normalised; a row that is not finite could not be embedded
    features: pa.Table | None  # FEATURES_SCHEMA
    labeled_ids: tuple[str, ...]  # sorted
    labeled_embeddings: Vectors | None  # (m, d)
    seed: int
    round: int

    def vectors(self) -> tuple[Vectors, Vectors]:
        """Embeddings of the candidates (n, d) and of the labelled examples (m, d)."""
        if self.embeddings is None or self.labeled_embeddings is None:
            raise TypeError("this strategy reads embeddings but does not declare that it needs them")
        return self.embeddings, self.labeled_embeddings

    def outputs(self) -> pa.Table:
        """The features table, row i belonging to `ids[i]`."""
        if self.features is None:
            raise TypeError("this strategy reads generations but does not declare that it needs them")
        return self.features


@dataclass(frozen=True)
class Scores:
    """A score for every candidate, shape (n,); larger is picked first, NaN is never picked by the strategy.

    Ranking is left to `select_batch`, which breaks ties by id. `parts` explain the score, shape (n,) each.
    """

    scores: Numbers
    parts: dict[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Picks:
    """Examples in the order a strategy picked them, best first, for strategies whose picks depend on each other.

    `scores` and every part have shape (k,). The strategy itself breaks ties by id: the first of equal candidates.
    """

    ids: tuple[str, ...]
    scores: Numbers
    parts: dict[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Strategy:
    """A query strategy: `select` maps candidates, its validated parameters and a count to scores or picks."""

    name: str
    needs: frozenset[Need]
    parameters: type[Parameters]
    select: Callable[[Candidates, Any, int], Scores | Picks]


def rows_finite(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which rows hold finite numbers only, shape (n,)."""
    return np.asarray(np.isfinite(vectors).all(axis=1))


def pick_ids(ids: Sequence[str], rows: Iterable[int]) -> tuple[str, ...]:
    """The ids at `rows`, in that order."""
    return tuple(ids[row] for row in rows)
