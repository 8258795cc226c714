"""What drafts do (`drafts: experiment`): half of the examples, drawn by a hash, are labelled
without the model's draft, and the answers of both halves are compared.

Examples are what is drawn at random, so they are what is resampled: the answers of several people
to one example count as their mean. Only examples for which there is a draft are compared, seen or
not. Imported answers do not count.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import edit_similarity
from atgen_ray.annotation.human.task_store import IMPORTED, find_human
from atgen_ray.core.arrays import Numbers
from atgen_ray.core.bootstrap import bootstrap_shift
from atgen_ray.core.hashing import mix_seed
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, tasks

MOST = 10_000  # answers that are compared: a second's work
LEAST = 10  # examples of each half that are compared
MANY = 1_000  # examples of a half from which on a mean is normally distributed, near enough
CLASSES = 12  # different labels at most that are taken for a closed set
CONFIDENCE = 0.95
ROUNDING = 1e-12  # differences of means that are due to the computer
QUICKEST = 0.1  # seconds: a shorter time is a fault of a clock

DraftMode = Literal["shown", "blind", "off"]


@dataclass(frozen=True)
class Answer:
    """One person's answer to an example, beside the draft that was there, seen or not."""

    example_id: str
    annotator: str
    text: str
    seconds: float | None
    draft: str
    shown: bool


@dataclass(frozen=True)
class Effect:
    """A quantity with and without a draft, and how much the draft changes it: `change` is a ratio
    where `ratio`, else a difference, with the bounds of its interval.
    """

    name: str
    shown: float
    hidden: float
    change: float
    low: float
    high: float
    ratio: bool = False

    @property
    def is_certain(self) -> bool:
        """Return whether the interval leaves out that drafts change nothing."""
        nothing = 1.0 if self.ratio else 0.0
        return not self.low <= nothing <= self.high


@dataclass(frozen=True)
class DraftEffects:
    """Effects of drafts on all answers, on each label of a closed set, and on the distance of each
    person's answers from the draft.

    `shown` and `hidden` count the examples of both halves. Effects are empty where one has fewer
    than `LEAST`. `people` is empty where nobody answered as many of both.
    """

    shown: int
    hidden: int
    effects: tuple[Effect, ...]
    labels: tuple[Effect, ...]
    people: tuple[Effect, ...]


def choose_drafts(mode: str, run: str, example_id: str) -> DraftMode:
    """Return how the draft of an example is shown, in an experiment by its hash: `shown` or
    `off`.
    """
    if mode == "experiment":
        return "shown" if mix_seed(0, "drafts", run, example_id) % 2 == 0 else "off"
    return mode  # type: ignore[return-value]


def measure_drafts(journal: Journal, run: str) -> DraftEffects | None:
    """Return the effects of drafts on the answers so far, None for a run without the experiment.

    Of more than `MOST` answers those with the first ids are compared: ids are hashes, so these are
    drawn at random.
    """
    config = find_human(journal.run(run).config)
    if config is None or config.drafts != "experiment":
        return None
    joined = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    names = ("example_id", "annotator", "text", "note", "seconds")
    columns = [assignments.c[name] for name in names]
    query = sa.select(*columns, tasks.c.suggestion).join(tasks, joined)
    # The drafts of gold items are no drafts of the model.
    given = (assignments.c.state == "submitted") & tasks.c.gold.is_(None)
    query = query.where((tasks.c.run == run) & given)
    query = query.order_by(assignments.c.example_id, assignments.c.annotator).limit(MOST)
    with journal.database.reading() as connection:
        rows = connection.execute(query).mappings().all()
    answers = [
        Answer(
            row["example_id"],
            row["annotator"],
            row["text"],
            row["seconds"],
            row["suggestion"]["text"],
            choose_drafts("experiment", run, row["example_id"]) == "shown",
        )
        for row in rows
        if row["suggestion"] is not None and row["note"] != IMPORTED
    ]
    return compare_halves(answers)


def compare_halves(answers: Sequence[Answer]) -> DraftEffects:
    """Return the effects of drafts on `answers`: on the time, on the distance from the draft, on
    the share of answers that equal it, and on the length.
    """
    halves = {answer.example_id: answer.shown for answer in answers}
    shown = sum(halves.values())
    distances = {id(answer): 1.0 - edit_similarity(answer.text, answer.draft) for answer in answers}
    logs = {
        id(answer): math.log(max(answer.seconds, QUICKEST))
        for answer in answers
        if answer.seconds is not None
    }
    same = {id(answer): float(distances[id(answer)] == 0.0) for answer in answers}
    words = {id(answer): float(len(answer.text.split())) for answer in answers}
    found = [
        _compare("seconds", answers, logs, ratio=True),
        _compare("distance", answers, distances),
        _compare("unchanged", answers, same),
        _compare("words", answers, words),
    ]
    return DraftEffects(
        shown,
        len(halves) - shown,
        tuple(effect for effect in found if effect is not None),
        _compare_labels(answers),
        _compare_people(answers, distances),
    )


def _compare_labels(answers: Sequence[Answer]) -> tuple[Effect, ...]:
    """Return the effect on the share of each label, the most frequent first; empty where answers
    are no closed set. The intervals hold for all labels together (Bonferroni).
    """
    names = {id(answer): " ".join(answer.text.casefold().split()) for answer in answers}
    counts = Counter(names.values())
    if not 2 <= len(counts) <= CLASSES or len(answers) < 2 * LEAST:
        return ()
    effects = [
        _compare(
            label,
            answers,
            {key: float(name == label) for key, name in names.items()},
            confidence=1 - (1 - CONFIDENCE) / len(counts),
        )
        for label, _ in counts.most_common()
    ]
    return tuple(effect for effect in effects if effect is not None)


def _compare_people(
    answers: Sequence[Answer], distances: Mapping[int, float]
) -> tuple[Effect, ...]:
    """Return the effect on the distance of each person's answers, by name. The intervals hold for
    all people together (Bonferroni).
    """
    people: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        people[answer.annotator].append(answer)
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(people))
    effects = [
        _compare(name, people[name], distances, confidence=confidence) for name in sorted(people)
    ]
    return tuple(effect for effect in effects if effect is not None)


def _compare(
    name: str,
    answers: Sequence[Answer],
    values: Mapping[int, float],
    ratio: bool = False,
    confidence: float = CONFIDENCE,
) -> Effect | None:
    """Return the effect on `values`, by the identity of the answer; logarithms where `ratio`. None
    where a half has fewer than `LEAST` examples.
    """
    shown = _average(answers, values, True)
    hidden = _average(answers, values, False)
    if min(len(shown), len(hidden)) < LEAST:
        return None
    change = float(shown.mean() - hidden.mean())
    if abs(change) < ROUNDING:
        change = 0.0
    if np.ptp(shown) + np.ptp(hidden) == 0.0:  # nothing varies, so there is nothing to resample
        bounds = (change, change)
    elif max(len(shown), len(hidden)) > MANY:  # the bootstrap gives the same, in seconds
        error = math.sqrt(shown.var(ddof=1) / len(shown) + hidden.var(ddof=1) / len(hidden))
        margin = NormalDist().inv_cdf((1 + confidence) / 2) * error
        bounds = (change - margin, change + margin)
    else:
        bounds = bootstrap_shift(hidden, shown, confidence=confidence)
    numbers = (shown.mean(), hidden.mean(), change, *bounds)
    one, other, change, low, high = (
        math.exp(number) if ratio else float(number) for number in numbers
    )
    return Effect(name, one, other, change, low, high, ratio)


def _average(answers: Sequence[Answer], values: Mapping[int, float], shown: bool) -> Numbers:
    """Return the mean value of each example of one half, in the order of their ids."""
    by_example: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.shown is shown and id(answer) in values:
            by_example[answer.example_id].append(values[id(answer)])
    return np.array([np.mean(by_example[id_]) for id_ in sorted(by_example)], dtype=float)
