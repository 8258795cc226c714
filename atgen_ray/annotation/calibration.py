"""Calibration of annotators against labels of people: how often each is right, and from which
confidence on its labels are as good as is wanted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atgen_ray.core.records import Annotation
from atgen_ray.text.overlap import pairwise_f1

CANDIDATES = 10  # thresholds that are tried, at quantiles of the confidences


@dataclass(frozen=True)
class Opinion:
    """What one annotator said of one example, and how sure it was: the agreement of its votes, None
    without votes.
    """

    example_id: str
    annotator: str
    text: str
    confidence: float | None


@dataclass(frozen=True)
class Calibration:
    """How often an annotator agrees with people.

    Attributes:
        labels: examples that it labelled.
        compared: those of them that people labelled too.
        right: those of them where it says what people say.
        accuracy, low, high: share that is right, with its interval; None without a comparison.
        threshold: lowest confidence from which on labels have the wanted quality; None: none has.
        kept: share of its labels with that confidence, 0 without a threshold.
    """

    annotator: str
    labels: int
    compared: int
    right: int
    accuracy: float | None
    low: float | None
    high: float | None
    threshold: float | None
    kept: float


def list_opinions(label: Annotation) -> Iterator[Opinion]:
    """Yield what each model said of the example of a label: the last one, and those of the stages
    before.
    """
    told = {"annotator": label.annotator, "text": label.text, **label.provenance}
    while told:
        if told.get("text") and not is_person(told["annotator"]):
            yield Opinion(label.id, told["annotator"], told["text"], told.get("confidence"))
        told = told.get("first") or {}


def is_person(annotator: str) -> bool:
    """Return whether a label's annotator is a person."""
    return annotator.startswith("human/")


def calibrate(
    opinions: Sequence[Opinion],
    people: Mapping[str, str],
    quality: float,
    match: float = 1.0,
    level: float = 0.95,
) -> list[Calibration]:
    """Return the calibration of every annotator, in the order in which they first appear.

    Args:
        people: labels of people, by example.
        quality: share of right labels that is wanted at and above the threshold.
        match: F1 of the words from which on two labels say the same; at 1 case and white space are
            put aside.
        level: of the intervals (Wilson), and of the certainty that a threshold has that quality.
    """
    by_name: dict[str, list[Opinion]] = {}
    for opinion in opinions:
        by_name.setdefault(opinion.annotator, []).append(opinion)
    return [
        _calibrate_one(name, given, people, quality, match, level)
        for name, given in by_name.items()
    ]


def _calibrate_one(
    name: str,
    given: Sequence[Opinion],
    people: Mapping[str, str],
    quality: float,
    match: float,
    level: float,
) -> Calibration:
    from scipy.stats import binomtest

    compared = [opinion for opinion in given if opinion.example_id in people]
    right = np.array(
        [_agree(opinion.text, people[opinion.example_id], match) for opinion in compared],
        dtype=bool,
    )
    if not compared:
        return Calibration(name, len(given), 0, 0, None, None, None, None, 0.0)
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(level, method="wilson")
    threshold = _choose_threshold([each.confidence for each in compared], right, quality, level)
    kept = [
        threshold is not None and each.confidence is not None and each.confidence >= threshold
        for each in given
    ]
    return Calibration(
        name,
        len(given),
        len(compared),
        int(right.sum()),
        float(right.mean()),
        float(interval.low),
        float(interval.high),
        threshold,
        float(np.mean(kept)),
    )


def _choose_threshold(
    confidences: Sequence[float | None], right: npt.NDArray[np.bool_], quality: float, level: float
) -> float | None:
    """Return the lowest of a few thresholds from which on the share of right labels is above
    `quality` by an exact binomial test.

    The error of the tests is divided by their number (Bonferroni), so that the choice among them
    costs no certainty.
    """
    from scipy.stats import binomtest

    known = np.array([np.nan if each is None else each for each in confidences])
    if np.isnan(known).any():
        return None
    places = np.linspace(0.0, 1.0, CANDIDATES, endpoint=False)
    candidates = np.unique(np.quantile(known, places, method="lower"))
    risk = (1 - level) / len(candidates)
    for threshold in candidates:
        above = right[known >= threshold]
        if binomtest(int(above.sum()), len(above), quality, "greater").pvalue <= risk:
            return float(threshold)
    return None


def _agree(label: str, wanted: str, match: float) -> bool:
    """Return whether two labels say the same."""
    if " ".join(label.casefold().split()) == " ".join(wanted.casefold().split()):
        return True
    return match < 1 and bool(pairwise_f1([label, wanted])[0, 1] >= match)
