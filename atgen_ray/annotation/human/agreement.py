"""How far free texts by several people agree, and how far a text is from the draft it began as.

All similarities are from 0 to 1. chrF: Popović, WMT 2015, as sacrebleu computes it; edit
similarity: one minus the Levenshtein distance over the length of the longer text.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple


class Agreement(NamedTuple):
    """How far texts agree, over `examples` that were compared."""

    exact: float
    chrf: float
    edit: float
    examples: int = 1


def compare_texts(one: str, other: str) -> Agreement:
    """How far two texts agree; `exact` leaves case and white space aside, and chrF is the mean of
    both directions.
    """
    exact = float(" ".join(one.casefold().split()) == " ".join(other.casefold().split()))
    return Agreement(
        exact, (_chrf(one, other) + _chrf(other, one)) / 2, edit_similarity(one, other)
    )


def edit_similarity(one: str, other: str) -> float:
    """One minus the normalised Levenshtein distance."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(one.strip(), other.strip())


def find_centre(texts: Sequence[str]) -> tuple[int, float]:
    """Which of `texts`, at least one, is nearest to all others, and the mean edit similarity of all
    pairs.
    """
    if len(texts) == 1:
        return 0, 1.0
    nearness = [0.0] * len(texts)
    for one, other in combinations(range(len(texts)), 2):
        similarity = edit_similarity(texts[one], texts[other])
        nearness[one] += similarity
        nearness[other] += similarity
    return nearness.index(max(nearness)), sum(nearness) / (len(texts) * (len(texts) - 1))


def measure_agreement(answers: Mapping[str, Mapping[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Agreement of people over all examples that both of a pair labelled.

    Args:
        answers: texts by annotator, by example.

    Returns:
        `pairs` with `annotators` (two), and `annotators` with `annotator` and the mean over
        everything that this one shares with others; each with `exact`, `chrf`, `edit` and the
        number of `examples` compared.
    """
    pairs: dict[tuple[str, str], list[Agreement]] = defaultdict(list)
    for texts in answers.values():
        for one, other in combinations(sorted(texts), 2):
            pairs[one, other].append(compare_texts(texts[one], texts[other]))
    people: dict[str, list[Agreement]] = defaultdict(list)
    for pair, found in pairs.items():
        for annotator in pair:
            people[annotator] += found
    return {
        "pairs": [
            {"annotators": [*pair]} | _average(pairs[pair])._asdict() for pair in sorted(pairs)
        ],
        "annotators": [
            {"annotator": each} | _average(people[each])._asdict() for each in sorted(people)
        ],
    }


def _average(found: Sequence[Agreement]) -> Agreement:
    exact, chrf, edit, _ = (statistics.mean(values) for values in zip(*found, strict=True))
    return Agreement(exact, chrf, edit, len(found))


def _chrf(hypothesis: str, reference: str) -> float:
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(hypothesis, [reference]).score) / 100
