"""Distribution shift of a labelled set from its pool, by embedding, length, clusters, words of the
answers and language; and slices of a test set, on which selection may have unequal effects.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from atgen_ray.reporting.diagnostics import Clusters
from atgen_ray.selection.kernels.mean_matching import find_width, measure_discrepancy
from atgen_ray.text.languages import name_language

LEAST = 3  # examples of a slice


def slice_examples(test: Mapping[str, str], pool: Iterable[str]) -> dict[str, list[str]]:
    """Return the ids of `test` (input text by id) by slice: thirds of equal size, and languages if
    there are several.

    short, middle and long are by number of words; rare, mixed and common by the mean log frequency
    of the words in `pool`. A slice of fewer than three examples is left out.
    """
    counts = Counter(word for text in pool for word in _words(text))
    lengths = {id_: float(len(text.split())) for id_, text in test.items()}
    usual = {
        id_: float(np.mean([math.log1p(counts[word]) for word in _words(text)] or [0.0]))
        for id_, text in test.items()
    }
    slices = _cut(lengths, ("short", "middle", "long")) | _cut(usual, ("rare", "mixed", "common"))
    languages = {id_: name_language(text) for id_, text in test.items()}
    for name in sorted(set(languages.values())) if len(set(languages.values())) > 1 else ():
        slices[f"language {name}"] = [id_ for id_ in sorted(test) if languages[id_] == name]
    return {name: ids for name, ids in slices.items() if len(ids) >= LEAST}


def _cut(values: Mapping[str, float], names: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the ids in parts of equal size by value, ties by id."""
    ordered = sorted(values, key=lambda id_: (values[id_], id_))
    return {
        name: list(part)
        for name, part in zip(names, np.array_split(ordered, len(names)), strict=True)
    }


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


Vectors = Mapping[str, npt.NDArray[np.float64]]  # unit vectors by example id

SAMPLED = 1000  # examples of the pool that distances are measured on
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class PoolFacts:
    """Statistics of a pool, computed once. Texts, answers and vectors are by example id."""

    ids: list[str]
    texts: Mapping[str, str]
    answers: Mapping[str, str]
    vectors: Vectors
    clusters: Clusters | None
    width: float  # of the kernel
    languages: Mapping[str, str] = field(default_factory=dict)


def study_pool(texts: Mapping[str, str], answers: Mapping[str, str], vectors: Vectors) -> PoolFacts:
    """Return the statistics of a pool; `answers` and `vectors` may lack some ids."""
    ids = sorted(texts)
    sample = _sample(ids, vectors)
    return PoolFacts(
        ids=ids,
        texts=texts,
        answers=answers,
        vectors=vectors,
        clusters=Clusters(list(sample)) if len(sample) > 1 else None,
        width=find_width(sample),
        languages={id_: name_language(f"{texts[id_]} {answers.get(id_, '')}") for id_ in ids},
    )


def measure_shift(pool: PoolFacts, labeled: Sequence[str]) -> dict[str, float]:
    """Return distances of the examples `labeled` from the pool; NaN if there is nothing to measure.

    mmd: maximum mean discrepancy of the embeddings, squared, biased, with a Gaussian kernel of the
        median distance (Gretton et al. 2012, JMLR 13:723). A small set is distant even if drawn at
        random: compare with the baseline.
    length: mean words of the labelled inputs over those of the pool.
    clusters: share of the pool's clusters with a labelled example.
    vocabulary: Jensen-Shannon distance (base 2) of the words in the answers.
    language: total variation distance of the languages; 0 where the pool has one.
    """
    coverage = {}
    if pool.clusters is not None:
        coverage = pool.clusters.cover({"all": labeled}, [], dict(pool.vectors))
    return {
        "mmd": _measure_mmd(pool, labeled),
        "length": _mean_length(pool, labeled) / _mean_length(pool, pool.ids),
        "clusters": coverage.get("all", math.nan),
        "vocabulary": _compare_words(pool, labeled),
        "language": _compare_languages(pool, labeled),
    }


def _stack(ids: Sequence[str], vectors: Vectors) -> npt.NDArray[np.float64]:
    rows = [vectors[id_] for id_ in ids if id_ in vectors]
    return np.stack(rows) if rows else np.empty((0, 0))


def _sample(ids: Sequence[str], vectors: Vectors) -> npt.NDArray[np.float64]:
    return _stack(ids[:: math.ceil(len(ids) / SAMPLED)], vectors)


def _measure_mmd(pool: PoolFacts, labeled: Sequence[str]) -> float:
    rows = _stack(labeled, pool.vectors)
    sample = _sample(pool.ids, pool.vectors)
    return measure_discrepancy(rows, sample, pool.width) if len(rows) and len(sample) else math.nan


def _mean_length(pool: PoolFacts, ids: Sequence[str]) -> float:
    return float(np.mean([len(pool.texts[id_].split()) for id_ in ids])) if ids else math.nan


def _compare_words(pool: PoolFacts, labeled: Sequence[str]) -> float:
    def count(ids: Sequence[str]) -> Counter[str]:
        return Counter(
            word for id_ in ids for word in WORD.findall(pool.answers.get(id_, "").lower())
        )

    return _distance(count(labeled), count(pool.ids))


def _compare_languages(pool: PoolFacts, labeled: Sequence[str]) -> float:
    def share(ids: Sequence[str]) -> dict[str, float]:
        found = Counter(pool.languages[id_] for id_ in ids)
        return {name: count / found.total() for name, count in found.items()}

    one = share(labeled)
    other = share(pool.ids)
    if not labeled:
        return math.nan
    return sum(abs(one.get(name, 0.0) - other.get(name, 0.0)) for name in one | other) / 2


def _distance(one: Counter[str], other: Counter[str]) -> float:
    from scipy.spatial.distance import jensenshannon

    words = sorted(one | other)
    if not one.total() or not other.total():
        return math.nan
    counts = [one[word] for word in words]
    other_counts = [other[word] for word in words]
    return float(jensenshannon(counts, other_counts, base=2))
