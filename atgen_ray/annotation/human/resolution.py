"""State of a task as a pure function of the answers to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atgen_ray.annotation.human.agreement import (
    Consensus,
    choose_measure,
    find_consensus,
    find_threshold,
)
from atgen_ray.config import HumanAnnotatorConfig

TaskState = Literal["open", "disputed", "answered", "dropped"]
CLOSED = ("taken", "buried")  # the run has the label, or has given the task up


@dataclass(frozen=True)
class HumanAnswer:
    """One person's work on a task: a submitted text, or a skip or flag with a note."""

    annotator: str
    state: str
    text: str | None
    note: str | None


@dataclass(frozen=True)
class Resolution:
    """State of a task. An answered one has its label and who wrote it, a dropped one the reason.

    `wanted` is the number of answers that it waits for, or has.
    """

    state: TaskState
    wanted: int
    text: str = ""
    annotator: str = ""
    reason: str = ""
    agreement: float | None = None


def resolve(
    answers: Sequence[HumanAnswer],
    wanted: int,
    decision: dict[str, Any] | None,
    config: HumanAnnotatorConfig,
    most: int | None = None,
) -> Resolution:
    """Return the state of a task after `answers` (the oldest first) and an admin's decision.

    A flag waits for an admin. A skip leaves the example to others, as long as no more than
    `config.skips` people skip it; then it has the answers that it has, and without any waits for an
    admin. Answers that disagree wait for another one until there are `most` of them (None: as many
    as are `wanted`), and then for an admin.
    """
    skipped = [answer for answer in answers if answer.state == "skipped"]
    if decision is not None:
        return _follow(decision, skipped, wanted)
    if any(answer.state == "flagged" for answer in answers):
        return Resolution("disputed", wanted)
    given = [answer for answer in answers if answer.state == "submitted"]
    passable = len(skipped) <= config.skips
    if len(given) < wanted and passable:
        return Resolution("open", wanted)
    if not given:
        return Resolution("disputed", wanted)
    consensus = weigh_answers(given, config)
    agreement = consensus.agreement
    if not consensus.agreed:
        if passable and len(given) < (most or wanted):
            return Resolution("open", len(given) + 1, agreement=agreement)
        return Resolution("disputed", wanted, agreement=agreement)
    chosen = given[consensus.centre]
    return Resolution("answered", wanted, chosen.text or "", chosen.annotator, agreement=agreement)


def weigh_answers(given: Sequence[HumanAnswer], config: HumanAnnotatorConfig) -> Consensus:
    """Return what submitted answers (at least one) say together, by the run's measure."""
    texts = [answer.text or "" for answer in given]
    measure = choose_measure(texts, config.agreement)
    threshold = find_threshold(measure, config.adjudicate_below, config.agreement)
    return find_consensus(texts, [answer.annotator for answer in given], measure, threshold)


def _follow(decision: dict[str, Any], skipped: Sequence[HumanAnswer], wanted: int) -> Resolution:
    """Return the state that an admin's decision leads to."""
    if decision["verdict"] == "drop":
        reasons = [f"{decision['by']} dropped it ({decision['comment'] or 'no reason given'})"]
        reasons += [f"{answer.annotator} skipped it ({answer.note})" for answer in skipped]
        return Resolution("dropped", wanted, reason="; ".join(reasons))
    return Resolution("answered", wanted, decision["text"], decision["by"])
