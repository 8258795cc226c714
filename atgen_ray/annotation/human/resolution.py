"""State of a task as a pure function of the answers to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atgen_ray.annotation.human.agreement import find_centre
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
    """State of a task. An answered one has its label and who wrote it, a dropped one the reason."""

    state: TaskState
    text: str = ""
    annotator: str = ""
    reason: str = ""
    agreement: float | None = None


def resolve(
    answers: Sequence[HumanAnswer],
    required_answers: int,
    decision: dict[str, Any] | None,
    config: HumanAnnotatorConfig,
) -> Resolution:
    """Return the state of a task after `answers` (the oldest first) and an admin's decision.

    A flag waits for an admin. A skip leaves the example to others, as long as no more than
    `config.skips` people skip it; then it has the answers that it has, and without any waits for an
    admin.
    """
    skipped = [answer for answer in answers if answer.state == "skipped"]
    if decision is not None:
        return _follow(decision, skipped)
    if any(answer.state == "flagged" for answer in answers):
        return Resolution("disputed")
    given = [answer for answer in answers if answer.state == "submitted"]
    if len(given) < required_answers and len(skipped) <= config.skips:
        return Resolution("open")
    if not given:
        return Resolution("disputed")
    centre, agreement = find_centre([answer.text or "" for answer in given])
    if agreement < config.adjudicate_below:
        return Resolution("disputed", agreement=agreement)
    return Resolution(
        "answered", given[centre].text or "", given[centre].annotator, agreement=agreement
    )


def _follow(decision: dict[str, Any], skipped: Sequence[HumanAnswer]) -> Resolution:
    """Return the state that an admin's decision leads to."""
    if decision["verdict"] == "drop":
        reasons = [f"{decision['by']} dropped it ({decision['comment'] or 'no reason given'})"]
        reasons += [f"{answer.annotator} skipped it ({answer.note})" for answer in skipped]
        return Resolution("dropped", reason="; ".join(reasons))
    return Resolution("answered", decision["text"], decision["by"])
