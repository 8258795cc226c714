"""Agreement between free texts by several people, and the distance of a text from its draft.

All similarities are from 0 to 1. chrF: Popović, WMT 2015, as sacrebleu computes it; edit
similarity: one minus the Levenshtein distance over the length of the longer text.
"""

import statistics
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from atgen_ray.core.hashing import hash_text
from atgen_ray.text.words import split_words

Measure = Literal["exact", "edit", "chrf"]
SHORT_WORDS = 3  # answers of no more words are compared as a whole
# Below these two answers disagree. docs/annotation.md has the measurements: among the thresholds
# that are good on every task, 0.25 of chrF catches most pairs of answers to different examples for
# the fewest pairs of answers to one example that it sends to an admin.
THRESHOLDS: dict[Measure, float] = {"exact": 1.0, "edit": 0.3, "chrf": 0.25}
_END_MARKS = " .,;:!?。、！？"


class Agreement(NamedTuple):
    """Similarities from 0 to 1, as means over the `examples` that were compared."""

    exact: float
    chrf: float
    edit: float
    examples: int = 1


class Consensus(NamedTuple):
    """What several answers to one example say together.

    Attributes:
        centre: place of the answer that is nearest to all others.
        agreement: mean similarity of all pairs; 1 for one answer.
        agreed: whether more than half of the answers agree with the one in the centre, itself
            counted.
    """

    centre: int
    agreement: float
    agreed: bool


def compare_texts(one: str, other: str) -> Agreement:
    """Return how far two texts agree. `exact` ignores case, white space and final punctuation;
    chrF is the mean of both directions.
    """
    return Agreement(
        exact_match(one, other), chrf_similarity(one, other), edit_similarity(one, other)
    )


def exact_match(one: str, other: str) -> float:
    """Return 1 where two texts are the same but for case, white space and final punctuation."""
    return float(normalize_text(one) == normalize_text(other))


def normalize_text(text: str) -> str:
    """Return a text without case, extra white space and final punctuation; one of marks alone
    keeps them.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(_END_MARKS) or plain


def edit_similarity(one: str, other: str) -> float:
    """Return one minus the normalised Levenshtein distance."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(one.strip(), other.strip())


def chrf_similarity(one: str, other: str) -> float:
    """Return the mean chrF of both directions, which looks at case."""
    return (_chrf(one, other) + _chrf(other, one)) / 2


_SIMILARITIES: dict[Measure, Callable[[str, str], float]] = {
    "exact": exact_match,
    "edit": edit_similarity,
    "chrf": chrf_similarity,
}


def choose_measure(
    texts: Sequence[str], setting: Literal["auto", "exact", "edit", "chrf"]
) -> Measure:
    """Return the measure for `texts`, the answers to one example: the one in the setting, or, under
    auto, `exact` where all are short and else `chrf`.

    Short answers are compared as a whole because two opposite classes may share most letters.
    """
    if setting != "auto":
        return setting
    return "exact" if all(len(split_words(text)) <= SHORT_WORDS for text in texts) else "chrf"


def measure_similarity(one: str, other: str, measure: Measure) -> float:
    """Return the similarity of two texts by `measure`."""
    return _SIMILARITIES[measure](one, other)


def find_threshold(measure: Measure, setting: float | None, asked: str) -> float:
    """Return the similarity below which two answers disagree.

    Args:
        setting: the threshold of the configuration; None: that of the measure.
        asked: the measure of the configuration. Under auto a threshold is one of chrF, and short
            answers are still compared as a whole.
    """
    if setting is None or (asked == "auto" and measure == "exact"):
        return THRESHOLDS[measure]
    return setting


def find_consensus(
    texts: Sequence[str], people: Sequence[str], measure: Measure, threshold: float
) -> Consensus:
    """Return which of `texts` (at least one) is nearest to all others, and whether most agree with
    it.

    Of several that are equally near, a hash of person and text chooses, so that neither the first
    nor anybody in particular is preferred.
    """
    if len(texts) == 1:
        return Consensus(0, 1.0, True)
    similar = [[1.0] * len(texts) for _ in texts]
    for one, other in combinations(range(len(texts)), 2):
        similar[one][other] = measure_similarity(texts[one], texts[other], measure)
        similar[other][one] = similar[one][other]
    nearness = [sum(row) - 1.0 for row in similar]
    ties = [place for place, near in enumerate(nearness) if near >= max(nearness) - 1e-12]
    centre = min(ties, key=lambda place: hash_text(f"{people[place]}\n{texts[place]}"))
    agreeing = sum(similarity >= threshold for similarity in similar[centre])
    mean = sum(nearness) / (len(texts) * (len(texts) - 1))
    return Consensus(centre, mean, 2 * agreeing > len(texts))


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
