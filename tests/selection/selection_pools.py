"""Pools for the tests of selection: plain, degenerate and broken ones."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from atgen_ray.records import FEATURES_SCHEMA
from atgen_ray.selection import Embeddings, select_batch

# Few directions, so that identical and opposite embeddings are common.
DIRECTIONS = [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0.6, 0.8, 0), (0.6, 0, -0.8), (0, 0, 0), (math.nan, 0, 0)]
LOGPROBS = [[-0.1], [-0.1, -0.3], [-2.0, -4.0, -0.5], [-2.0], [], [math.nan, -1.0], [-math.inf], None]


@dataclass(frozen=True)
class Pool:
    """Everything `select_batch` may be given; `vectors` and `features` rows belong to `ids`."""

    ids: list[str]
    vectors: list[tuple[float, ...]]
    logprobs: list[list[float] | None]
    labeled: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    @property
    def open(self) -> set[str]:
        return set(self.ids) - self.labeled - self.excluded

    def take(self, order: list[int]) -> "Pool":
        return replace(
            self,
            ids=[self.ids[row] for row in order],
            vectors=[self.vectors[row] for row in order],
            logprobs=[self.logprobs[row] for row in order],
        )

    def embeddings(self) -> Embeddings:
        return Embeddings(self.ids, np.array(self.vectors, dtype=np.float32))

    def features(self) -> pa.Table:
        return pa.Table.from_pylist(
            [feature_row(id, logprobs) for id, logprobs in zip(self.ids, self.logprobs, strict=True)],
            schema=FEATURES_SCHEMA,
        )

    def select(self, strategy: str, count: int, parameters: dict | None = None, **given) -> pa.Table:
        inputs = {"embeddings": self.embeddings(), "features": self.features(), "seed": 7, "round": 1} | given
        return select_batch(
            strategy,
            parameters or {},
            ids=self.ids,
            count=count,
            labeled=self.labeled,
            excluded=self.excluded,
            **inputs,
        )


def feature_row(id: str, logprobs: list[float] | None) -> dict:
    tokens = logprobs or []
    return {
        "id": id,
        "prompt_tokens": 5,
        "text": " ".join(f"w{step}" for step in range(len(tokens))),
        "token_ids": list(range(len(tokens))),
        "logprobs": logprobs,
        "entropies": None if logprobs is None else [abs(value) for value in tokens],
        "top_logprobs": [[value, value - 1] for value in tokens],
        "finish_reason": "stop",
        "samples": [{"text": f"w{step}", "logprob": -1.0} for step in range(3)],
        "error": "no output" if logprobs is None else None,
    }


def make_pool(count: int, seed: int = 0, dimensions: int = 8, labeled: int = 0) -> Pool:
    """A pool without ties: random directions and outputs, the first `labeled` examples labelled."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"x{number:04d}" for number in range(count)]
    logprobs = [(-generator.exponential(1, generator.integers(1, 6))).tolist() for _ in ids]
    return Pool(ids, [tuple(row) for row in vectors.tolist()], logprobs, frozenset(ids[:labeled]))


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Small pools full of ties, rows without output, rows without embedding and labelled or excluded rows."""
    names = st.text("abcxyz0123456789é", min_size=1, max_size=4)
    ids = draw(st.lists(names, unique=True, min_size=1, max_size=12))
    columns = [
        draw(st.lists(st.sampled_from(kind), min_size=len(ids), max_size=len(ids))) for kind in (DIRECTIONS, LOGPROBS)
    ]
    taken = draw(
        st.lists(st.sampled_from(["open", "open", "labeled", "excluded"]), min_size=len(ids), max_size=len(ids))
    )
    taken[draw(st.integers(0, len(ids) - 1))] = "open"
    labeled, excluded = (
        frozenset(id for id, state in zip(ids, taken, strict=True) if state == wanted)
        for wanted in ("labeled", "excluded")
    )
    return Pool(ids, *columns, labeled, excluded)
