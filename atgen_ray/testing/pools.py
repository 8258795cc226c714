"""Made-up pools for tests of strategies: plain ones, degenerate ones, and ones with broken rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from atgen_ray.core.records import FEATURES_SCHEMA
from atgen_ray.selection import Embeddings, States, Strategy, select_batch

# Few directions, so that identical and opposite embeddings are common.
DIRECTIONS: list[tuple[float, ...]] = [
    (1, 0, 0),
    (0, 1, 0),
    (-1, 0, 0),
    (0.6, 0.8, 0),
    (0.6, 0, -0.8),
    (0, 0, 0),
    (math.nan, 0, 0),
]
TEXTS = [
    "",
    "?!",
    "Who wrote Hamlet?",
    "who wrote hamlet",
    "Add 2 and 2.",
    "Ada met Bob in Rome. Then they left.",
    "中文",
]
SAMPLES: list[list[str]] = [
    [],
    ["4"],
    ["4", "4"],
    ["4", "", "four"],
    ["Rome", "rome.", "In Rome", "Paris"],
    ["a b c d e", "a b c d f"],
]
LOGPROBS: list[list[float] | None] = [
    [-0.1],
    [-0.1, -0.3],
    [-2.0, -4.0, -0.5],
    [-2.0],
    [],
    [math.nan, -1.0],
    [-math.inf],
    None,
]


@dataclass(frozen=True)
class Pool:
    """Everything `select_batch` may be given; row i of every list belongs to `ids[i]`."""

    ids: list[str]
    vectors: list[tuple[float, ...]]
    logprobs: list[list[float] | None]
    labeled: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    texts: list[str] = field(default_factory=list)  # made up where not given
    samples: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        made_up = [f"What is {id} in Rome? Give {len(id)} words." for id in self.ids]
        object.__setattr__(self, "texts", self.texts or made_up)
        object.__setattr__(self, "samples", self.samples or [["w0", "w1", "w2"] for _ in self.ids])

    @property
    def open(self) -> set[str]:
        """Ids of the examples that may be picked."""
        return set(self.ids) - self.labeled - self.excluded

    def take(self, order: list[int]) -> "Pool":
        """The rows at `order`, in that order."""
        return replace(
            self,
            ids=[self.ids[row] for row in order],
            vectors=[self.vectors[row] for row in order],
            logprobs=[self.logprobs[row] for row in order],
            texts=[self.texts[row] for row in order],
            samples=[self.samples[row] for row in order],
        )

    def embeddings(self) -> Embeddings:
        """Of all rows."""
        return Embeddings(self.ids, np.array(self.vectors, dtype=np.float32))

    def target(self) -> Embeddings:
        """Prompts to pick for: five directions, and one that could not be embedded."""
        width = len(self.vectors[0])
        vectors = np.random.default_rng(3).standard_normal((6, width))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[4] = np.nan
        return Embeddings([f"t{number}" for number in range(6)], vectors)

    def fields(self) -> dict[str, dict[str, Any]]:
        """Short columns of all rows: one, `kind`, with three values that go by the id."""
        return {id: {"kind": f"k{sum(map(ord, id)) % 3}"} for id in self.ids}

    def features(self) -> pa.Table:
        """The model's outputs, FEATURES_SCHEMA."""
        rows = [
            feature_row(*row) for row in zip(self.ids, self.logprobs, self.samples, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=FEATURES_SCHEMA)

    def states(self) -> States:
        """Hidden states of all rows: the embeddings, three times as long."""
        return States(self.ids, 3 * np.array(self.vectors, dtype=np.float32))

    def select(
        self,
        strategy: str | Strategy,
        count: int,
        parameters: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> pa.Table:
        """`select_batch` on this pool; `given` replaces single arguments, None leaves one out."""
        inputs: dict[str, Any] = {
            "embeddings": self.embeddings(),
            "features": self.features(),
            "texts": dict(zip(self.ids, self.texts, strict=True)),
            "labels": {id: text[:20] for id, text in zip(self.ids, self.texts, strict=True)},
            "states": self.states(),
            "target": self.target(),
            "fields": self.fields(),
            "seed": 7,
            "round": 1,
        } | given
        return select_batch(
            strategy,
            parameters or {},
            ids=self.ids,
            count=count,
            labeled=self.labeled,
            excluded=self.excluded,
            **inputs,
        )


def feature_row(id: str, logprobs: list[float] | None, samples: list[str]) -> dict[str, Any]:
    """A row of FEATURES_SCHEMA; without log-probabilities the model failed on the example."""
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
        "samples": [{"text": text, "logprob": -1.0 - len(text)} for text in samples],
        "error": "no output" if logprobs is None else None,
    }


def make_pool(count: int, seed: int = 0, dimensions: int = 8, labeled: int = 0) -> Pool:
    """A pool without ties: random directions and outputs, the first `labeled` examples labelled."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"x{number:04d}" for number in range(count)]
    logprobs = [(-generator.exponential(1, generator.integers(1, 6))).tolist() for _ in ids]
    words = [f"Word{number}" for number in range(40)]
    texts = [" ".join(generator.choice(words, generator.integers(3, 12))) + "." for _ in ids]
    samples = [[" ".join(generator.choice(words[:6], 5)) for _ in range(4)] for _ in ids]
    labels = frozenset(ids[:labeled])
    return Pool(
        ids,
        [tuple(row) for row in vectors.tolist()],
        logprobs,
        labels,
        texts=texts,
        samples=samples,
    )


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Small pools full of ties, rows without output, rows without embedding and labelled or
    excluded rows.
    """
    names = st.text("abcxyz0123456789é", min_size=1, max_size=4)
    ids = draw(st.lists(names, unique=True, min_size=1, max_size=12))
    size = len(ids)
    vectors = draw(st.lists(st.sampled_from(DIRECTIONS), min_size=size, max_size=size))
    logprobs = draw(st.lists(st.sampled_from(LOGPROBS), min_size=size, max_size=size))
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=size, max_size=size))
    samples = draw(st.lists(st.sampled_from(SAMPLES), min_size=size, max_size=size))
    taken = draw(
        st.lists(
            st.sampled_from(["open", "open", "labeled", "excluded"]),
            min_size=len(ids),
            max_size=len(ids),
        )
    )
    taken[draw(st.integers(0, len(ids) - 1))] = "open"
    labeled, excluded = (
        frozenset(id for id, state in zip(ids, taken, strict=True) if state == wanted)
        for wanted in ("labeled", "excluded")
    )
    return Pool(ids, vectors, logprobs, labeled, excluded, texts, samples)
