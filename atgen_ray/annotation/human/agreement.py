"""Agreement between free texts by several people, and the distance of a text from its draft.

All similarities are from 0 to 1. chrF: Popović, WMT 2015, as sacrebleu computes it; edit
similarity: one minus the Levenshtein distance over the length of the longer text.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple


class Agreement(NamedTuple):
    """Similarities from 0 to 1, as means over the `examples` that were compared."""

    exact: float
    chrf: float
    edit: float
    examples: int = 1


def compare_texts(one: str, other: str) -> Agreement:
    """Return how far two texts agree. `exact` ignores case and white space; chrF is the mean of
    both directions.
    """
    exact = float(" ".join(one.casefold().split()) == " ".join(other.casefold().split()))
    return Agreement(
        exact, (_chrf(one, other) + _chrf(other, one)) / 2, edit_similarity(one, other)
    )


def edit_similarity(one: str, other: str) -> float:
    """Return one minus the normalised Levenshtein distance."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(one.strip(), other.strip())


def find_centre(texts: Sequence[str]) -> tuple[int, float]:
    """Return which of `texts` (at least one) is nearest to all others, and the mean edit similarity
    of all pairs.
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
    """Measure the agreement of people over all examples that both of a pair labelled.

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
            {"annotators": [*pair], **_average(pairs[pair])._asdict()} for pair in sorted(pairs)
        ],
        "annotators": [
            {"annotator": name, **_average(people[name])._asdict()} for name in sorted(people)
        ],
    }


def _average(found: Sequence[Agreement]) -> Agreement:
    """Return the mean of several comparisons."""
    return Agreement(
        exact=statistics.mean(each.exact for each in found),
        chrf=statistics.mean(each.chrf for each in found),
        edit=statistics.mean(each.edit for each in found),
        examples=len(found),
    )


def _chrf(hypothesis: str, reference: str) -> float:
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(hypothesis, [reference]).score) / 100
