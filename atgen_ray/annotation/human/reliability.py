"""Reliability of people, with 95 % intervals.

Known answers (gold items) give the plainest estimate. Without them, short answers are weighed by
the model of Dawid and Skene (1979) with one accuracy for each person, fitted by expectation
maximisation; free texts by their similarity to what others wrote about the same example. Intervals
of the last two are bootstrap percentiles over examples, so that answers to one example count
together.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atgen_ray.core.arrays import Numbers

Places = npt.NDArray[np.intp]
LEVEL = 0.95
RESAMPLES = 200
ITERATIONS = 100
REFITS = 20  # iterations for a resample, which begin at the fit of all examples
# Weight of what is assumed before anything is known, in answers: everybody is right in 4 of 5.
PRIOR_RIGHT = 2.0
PRIOR_WRONG = 0.5


@dataclass(frozen=True)
class Estimate:
    """A share or a mean with its interval, and the number of examples that it rests on."""

    value: float
    low: float
    high: float
    examples: int


def estimate_share(right: int, count: int) -> Estimate | None:
    """Return the share of `right` among `count` with Wilson's interval; None for a count of 0."""
    from scipy.stats import binomtest

    if not count:
        return None
    interval = binomtest(right, count).proportion_ci(LEVEL, method="wilson")
    return Estimate(right / count, float(interval.low), float(interval.high), count)


def estimate_accuracy(
    answers: Mapping[str, Mapping[str, Hashable]],
    known: Mapping[str, Hashable] | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return how often each person gives the right answer, by Dawid and Skene's model.

    Answers to examples with a known answer, or with two or more answers, count. Two people who only
    meet each other cannot be told apart by how often they agree. So there is an estimate for those
    who gave an answer that is known, and for those who meet two people who meet each other.

    Args:
        answers: classes by person, by example.
        known: right classes of some of the examples.
    """
    known = known or {}
    used = {id_: given for id_, given in answers.items() if len(given) > 1 or id_ in known}
    model = _index(used, known)
    if model is None:
        return {}
    told_apart = _find_told_apart(used, known)
    start = np.full(len(model.names), PRIOR_RIGHT / (PRIOR_RIGHT + PRIOR_WRONG))
    point = model.fit(np.ones(model.examples), start, ITERATIONS)
    rng = np.random.default_rng(seed)
    even = np.full(model.examples, 1 / model.examples)
    draws = np.stack(
        [
            model.fit(rng.multinomial(model.examples, even).astype(float), point, REFITS)
            for _ in range(RESAMPLES)
        ]
    )
    low, high = _find_bounds(draws)
    counts = np.bincount(model.person, minlength=len(model.names))
    return {
        name: Estimate(float(point[i]), float(low[i]), float(high[i]), int(counts[i]))
        for i, name in enumerate(model.names)
        if name in told_apart
    }


def estimate_similarity(
    similar: Mapping[str, Mapping[str, float]], seed: int = 0
) -> dict[str, Estimate]:
    """Return each person's mean similarity to the others.

    Args:
        similar: mean similarity to the other answers to the same example, by example, by person.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name, by_example in sorted(similar.items()):
        values = np.array(list(by_example.values()))
        if not len(values):
            continue
        means = values[rng.integers(len(values), size=(RESAMPLES * 5, len(values)))].mean(axis=1)
        low, high = _find_bounds(means[:, None])
        found[name] = Estimate(float(values.mean()), float(low[0]), float(high[0]), len(values))
    return found


def _find_told_apart(
    answers: Mapping[str, Mapping[str, Hashable]], known: Mapping[str, Hashable]
) -> set[str]:
    """Return the people whose accuracy follows from the answers."""
    meets: dict[str, set[str]] = defaultdict(set)
    found: set[str] = set()
    for id_, given in answers.items():
        for name in given:
            meets[name] |= given.keys() - {name}
        if id_ in known:
            found |= given.keys()
    for name, others in meets.items():
        if any(meets[other] & others for other in others):
            found.add(name)
    return found


def _find_bounds(draws: Numbers) -> tuple[Numbers, Numbers]:
    """Return the bounds of the interval for each column of `draws`."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


@dataclass(frozen=True)
class _Model:
    """Answers as arrays. A candidate is a class that somebody gave for an example; those of one
    example follow each other.

    Attributes:
        person, candidate: of each answer.
        example: of each candidate.
        group: the class of each candidate, as a number.
        fixed: 1 for a candidate that is known to be right, 0 for one that is known to be wrong, NaN
            for others.
    """

    names: list[str]
    examples: int
    classes: int
    person: Places
    candidate: Places
    example: Places
    group: Places
    fixed: Numbers

    def fit(self, weights: Numbers, right: Numbers, iterations: int) -> Numbers:
        """Return everybody's accuracy when each example counts as often as `weights` says, fitted
        from the accuracies `right` on.
        """
        people = len(self.names)
        weight = weights[self.example[self.candidate]]
        total = np.bincount(self.person, weight, people)
        share = np.full(self.classes, 1.0 / self.classes)
        for _ in range(iterations):
            odds = np.log(right) - np.log((1.0 - right) / (self.classes - 1))
            score = np.log(share)[self.group] + np.bincount(
                self.candidate, odds[self.person], len(self.example)
            )
            posterior = self._normalize(score)
            agreeing = np.bincount(self.person, weight * posterior[self.candidate], people)
            right = (agreeing + PRIOR_RIGHT) / (total + PRIOR_RIGHT + PRIOR_WRONG)
            mass = np.bincount(self.group, posterior * weights[self.example], self.classes)
            share = (mass + 1.0) / (mass.sum() + self.classes)
        return np.asarray(right)

    def _normalize(self, score: Numbers) -> Numbers:
        """Return the probability of each candidate within its example."""
        peak = np.full(self.examples, -np.inf)
        np.maximum.at(peak, self.example, score)
        mass = np.exp(score - peak[self.example])
        posterior = mass / np.bincount(self.example, mass, self.examples)[self.example]
        return np.where(np.isnan(self.fixed), posterior, self.fixed)


def _index(
    answers: Mapping[str, Mapping[str, Hashable]], known: Mapping[str, Hashable]
) -> _Model | None:
    """Return the answers as arrays; None where there are none."""
    people: dict[str, int] = {}
    groups: dict[Hashable, int] = {}
    person = list[int]()
    candidate = list[int]()
    example = list[int]()
    group = list[int]()
    fixed = list[float]()
    for place, id_ in enumerate(sorted(answers)):
        here: dict[Hashable, int] = {}
        for name, answer in sorted(answers[id_].items()):
            if answer not in here:
                here[answer] = len(example)
                example.append(place)
                group.append(groups.setdefault(answer, len(groups)))
                fixed.append(float(answer == known[id_]) if id_ in known else np.nan)
            person.append(people.setdefault(name, len(people)))
            candidate.append(here[answer])
    if not person:
        return None
    return _Model(
        list(people),
        len(answers),
        max(2, len(groups)),
        np.array(person),
        np.array(candidate),
        np.array(example),
        np.array(group),
        np.array(fixed),
    )
