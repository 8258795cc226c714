"""Contract of query strategies: what a strategy is given (`Candidates`) and what it returns
(`Scores` or `Picks`).

A strategy is a pure function of its candidates, parameters and count. It declares what it needs
(`Need`), so that nothing else is computed for it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.core.errors import nearest
from atgen_ray.selection.features import Features
from atgen_ray.selection.kernels.bound import Bound
from atgen_ray.selection.kernels.executor import Executor, InProcessExecutor

# How a strategy is computed on a pool in blocks; its picks are the same whatever the blocks.
Distribution = Literal[
    "block",  # the score of an example depends on no other candidate
    "statistics",  # on numbers of the whole pool too, such as ranks, quantiles and means
    "parts",  # the picks depend on each other
]
Need = Literal[
    "embeddings",  # vectors of the candidates and of the labelled examples
    "generations",  # the features table: greedy output with log-probabilities and entropies
    "samples",  # the features table, with samples
    "target",  # vectors of the target: prompts of the use in mind, in the space of the embeddings
    "fields",  # columns of the rows of the candidates
    "texts",  # prompt texts of the candidates and of the labelled examples
    "labels",  # answers of the labelled examples
    # Vectors that the target model gives to the candidates (and, where known, the labelled ones).
    "states",
]
MODEL: frozenset[Need] = frozenset(
    {"generations", "samples", "states"}
)  # what only the model can tell
Needs = frozenset[Need]
UNDECLARED = "this strategy reads {0} and does not declare it, expected '{0}' among its `needs`"


class Parameters(BaseModel):
    """Base of every strategy's parameters; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Candidates:
    """Examples that may be picked, with what is known about them.

    A strategy sees only what it declared that it needs; the rest is None. Row i of every array and
    table belongs to `ids[i]`, or to `labeled_ids[i]` where the name starts with `labeled_`.
    """

    ids: tuple[str, ...]  # sorted, so that the order of the pool can never matter
    # (n, d), L2-normalised and quantised (kernels/similarity.py); a row that is not finite could
    # not be embedded
    embeddings: Vectors | None = None
    features: Features | None = None
    labeled_ids: tuple[str, ...] = ()  # sorted
    labeled_embeddings: Vectors | None = None  # (m, d)
    texts: tuple[str, ...] | None = None
    labeled_texts: tuple[str, ...] | None = None
    target_embeddings: Vectors | None = None  # (t, d), quantised, in the order of their ids
    fields: tuple[Mapping[str, Any], ...] | None = None  # short columns of the candidates' rows
    labels: tuple[str, ...] | None = None  # answers of the labelled examples
    states: Vectors | None = None  # (n, s), of any length; a row that is not finite has none
    labeled_states: Vectors | None = None  # (at most m, s), of the labelled examples that have one
    seed: int = 0
    round: int = 0
    # Where the parts of a large pool are worked on; the picks are the same for every executor.
    workers: Executor = field(default_factory=InProcessExecutor)

    def vectors(self) -> tuple[Vectors, Vectors]:
        """Return the embeddings of the candidates (n, d) and of the labelled examples (m, d)."""
        if self.embeddings is None or self.labeled_embeddings is None:
            raise TypeError(UNDECLARED.format("embeddings"))
        return self.embeddings, self.labeled_embeddings

    def target(self) -> Vectors:
        """Return the embeddings of the target (t, d); a row that is not finite has none."""
        if self.target_embeddings is None:
            raise TypeError(UNDECLARED.format("target"))
        return self.target_embeddings

    def columns(self) -> tuple[Mapping[str, Any], ...]:
        """Return the short columns of the candidates' rows, without answers."""
        if self.fields is None:
            raise TypeError(UNDECLARED.format("fields"))
        return self.fields

    def outputs(self, *columns: str) -> pa.Table:
        """Return the features table, or these columns of it, whole; row i belongs to `ids[i]`.

        `measure` keeps a block of it in memory, no more.
        """
        return self._known_features().take(self.ids, columns or None)

    def measure(self, function: Callable[..., Numbers], *arguments: Any) -> Numbers:
        """Return `function(features, *arguments)` for all candidates, shape (n,) or (n, k),
        computed by the workers in blocks.

        What the function returns for a row must depend on that row alone.
        """
        features = self.workers.share(self._known_features())
        size = self.workers.block
        calls = [
            (features, self.ids[start : start + size], function, arguments)
            for start in range(0, len(self.ids), size)
        ]
        blocks = self.workers.map(
            _measure_block, calls, lambda done: self.workers.progress(done, len(calls))
        )
        return np.concatenate(blocks)

    def _known_features(self) -> Features:
        if self.features is None:
            raise TypeError(UNDECLARED.format("generations"))
        return self.features

    def prompts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the prompt texts of the candidates and of the labelled examples."""
        if self.texts is None or self.labeled_texts is None:
            raise TypeError(UNDECLARED.format("texts"))
        return self.texts, self.labeled_texts

    def answers(self) -> tuple[str, ...]:
        """Return the answers of the labelled examples."""
        if self.labels is None:
            raise TypeError(UNDECLARED.format("labels"))
        return self.labels

    def model_states(self) -> tuple[Vectors, Vectors]:
        """Return the states of the candidates (n, s) and of the labelled examples that have one
        (at most m, s).
        """
        if self.states is None or self.labeled_states is None:
            raise TypeError(UNDECLARED.format("states"))
        return self.states, self.labeled_states

    def take(self, rows: Integers) -> "Candidates":
        """Return the candidates at `rows` (sorted); the labelled examples stay as they are."""
        return replace(
            self,
            ids=pick_ids(self.ids, rows),
            embeddings=None if self.embeddings is None else self.embeddings[rows],
            texts=None if self.texts is None else pick_ids(self.texts, rows),
            states=None if self.states is None else self.states[rows],
            fields=None if self.fields is None else tuple(self.fields[row] for row in rows),
        )

    def restrict(self, needs: Collection[Need]) -> "Candidates":
        """Return the same candidates with everything beyond `needs` set to None."""
        hidden: dict[str, Any] = {}
        if "embeddings" not in needs:
            hidden |= {"embeddings": None, "labeled_embeddings": None}
        if not {"generations", "samples"} & set(needs):
            hidden |= {"features": None}
        if "texts" not in needs:
            hidden |= {"texts": None, "labeled_texts": None}
        if "labels" not in needs:
            hidden |= {"labels": None}
        if "target" not in needs:
            hidden |= {"target_embeddings": None}
        if "fields" not in needs:
            hidden |= {"fields": None}
        if "states" not in needs:
            hidden |= {"states": None, "labeled_states": None}
        return replace(self, **hidden)


def _measure_block(
    features: Features,
    ids: Sequence[str],
    function: Callable[..., Numbers],
    arguments: tuple[Any, ...],
) -> Numbers:
    return function(features.take(ids), *arguments)


@dataclass(frozen=True)
class Scores:
    """A score for every candidate, shape (n,): larger is picked first, NaN is never picked.

    `select_batch` ranks them and breaks ties by id. `parts` explain the score, shape (n,) each.
    """

    scores: Numbers
    parts: dict[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Picks:
    """Examples in the order of picking, best first, for strategies whose picks depend on each
    other.

    `scores` and every part have shape (k,). The strategy breaks ties by id: it takes the first of
    equal candidates. `bound` says how near the picks are to the best ones, where that is known.
    """

    ids: tuple[str, ...]
    scores: Numbers
    parts: dict[str, Numbers] = field(default_factory=dict)
    bound: Bound | None = None


Select = Callable[[Candidates, Any, int], Scores | Picks]


# `select_batch` fills a batch at random where a strategy ranks too few examples, and says so here.
FILLED = "filled"
FILLED_MEANING = (
    "1: the strategy could not rank this example, so it was drawn at random to fill the batch."
)
ANY_PART = "*"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Meaning of a strategy's picks and scores, in plain words for people who label or read
    reports.

    Attributes:
        title: the strategy's name in words, such as `Best coverage of the pool`.
        why: why the strategy picks what it picks; one or two sentences about "these examples".
        score: what the score is, and what a larger one means.
        parts: the meaning of each part of the score, by its name. The key `*` explains all parts
            that are not named, where their names come from the parameters.
        titles: readable names of parts whose own names are symbols, such as `nll`.
    """

    title: str
    why: str
    score: str
    parts: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    def explain_part(self, part: str) -> str:
        """Return the meaning of a part of the score."""
        if part == FILLED:
            return FILLED_MEANING
        general = "A part of the score, as the strategy defines it."
        return self.parts.get(part, self.parts.get(ANY_PART, general))

    def name_part(self, part: str) -> str:
        """Return the readable name of a part of the score."""
        return self.titles.get(part, part.replace("_", " "))

    def order_parts(self, parts: Collection[str]) -> list[str]:
        """Return `parts` in the order in which they are explained, then by name."""
        known = [part for part in self.parts if part in parts]
        return known + sorted(set(parts) - set(known))


@dataclass(frozen=True)
class Strategy(Explanation):
    """A query strategy: `select` maps candidates, its validated parameters and a count to scores or
    picks.

    `needs` is what it reads with its default parameters; if parameters change that, `resolve` maps
    validated parameters to what is read. `distribution` says how it may be computed in blocks; one
    that is computed by `block` returns `Scores`. The texts of `Explanation` are required too: the
    report, the run page, the annotation page and `config explain` show them.
    """

    name: str
    needs: Needs
    parameters: type[Parameters]
    select: Select
    resolve: Callable[[Any], Needs] | None = None
    distribution: Distribution | Callable[[Any], Distribution] = "parts"

    def distribution_with(self, parameters: Parameters) -> Distribution:
        """Return how the strategy is computed with `parameters`."""
        if callable(self.distribution):
            return self.distribution(parameters)
        return self.distribution

    def needs_with(self, parameters: Parameters) -> Needs:
        """Return what must be computed before selecting with `parameters`, an instance of
        `self.parameters`.
        """
        return self.needs if self.resolve is None else self.resolve(parameters)


def find_fault(name: str, found: Any) -> str | None:
    """Return why the object of a plug-in is not the strategy `name`; None if it is."""
    if not isinstance(found, Strategy):
        return f"of type {type(found).__name__}, expected an instance of Strategy"
    if found.name != name:
        return f"called '{found.name}', expected the name of its entry point"
    if unknown := sorted(found.needs - set(get_args(Need))):
        known = get_args(Need)
        return (
            f"one that needs '{unknown[0]}', expected {', '.join(known[:-1])} or {known[-1]}"
            f"{nearest(unknown[0], known)}"
        )
    if not issubclass(found.parameters, Parameters):
        return f"one with parameters of type {found.parameters.__name__}, expected Parameters"
    return None


def pick_ids(ids: Sequence[str], rows: Iterable[int]) -> tuple[str, ...]:
    """Return the ids at `rows`, in that order."""
    return tuple(ids[row] for row in rows)
