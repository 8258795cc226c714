"""Parts of a test set that selection may serve unequally: by length, by how usual the words are, by language."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from atgen_ray.bench.shift import WORD, name_language

LEAST = 3  # examples of a slice


def slice_examples(test: Mapping[str, str], pool: Iterable[str]) -> dict[str, list[str]]:
    """Ids of `test` (input text by id) by slice; thirds of equal size, and languages where there are several.

    short, middle and long go by words; rare, mixed and common by the mean log frequency of the words in `pool`. A
    slice of fewer than three examples is left out.
    """
    counts = Counter(word for text in pool for word in _words(text))
    lengths = {id_: float(len(text.split())) for id_, text in test.items()}
    usual = {
        id_: float(np.mean([math.log1p(counts[word]) for word in _words(text)] or [0.0])) for id_, text in test.items()
    }
    slices = _cut(lengths, ("short", "middle", "long")) | _cut(usual, ("rare", "mixed", "common"))
    languages = {id_: name_language(text) for id_, text in test.items()}
    for name in sorted(set(languages.values())) if len(set(languages.values())) > 1 else ():
        slices[f"language {name}"] = [id_ for id_ in sorted(test) if languages[id_] == name]
    return {name: ids for name, ids in slices.items() if len(ids) >= LEAST}


def _cut(values: Mapping[str, float], names: tuple[str, ...]) -> dict[str, list[str]]:
    """Ids in parts of equal size by value, ties by id."""
    ordered = sorted(values, key=lambda id_: (values[id_], id_))
    return {name: list(part) for name, part in zip(names, np.array_split(ordered, len(names)), strict=True)}


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]
