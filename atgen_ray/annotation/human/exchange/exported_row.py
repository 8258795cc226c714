"""A row of a file of another tool: what the tool showed of an example, and the answers to it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.data.columns import to_texts

# Names under which our own exports for other tools have the input and the label.
LABEL_FIELD = "input"
LABEL_QUESTION = "label"

Said = tuple[str, Any, Any, bool]  # question, value, person, whether it is an answer


@dataclass(frozen=True)
class Answer:
    """What one person answered; `question` is the tool's name of what they were asked."""

    text: str
    annotator: str | None = None
    seconds: float | None = None
    question: str = ""


@dataclass(frozen=True)
class ExportedRow:
    """What a tool showed of an example, and the answers to it.

    Attributes:
        columns: the values that were shown, by their names.
        passed: drafts, skips, rejections and what has no text.
    """

    columns: Mapping[str, Any]
    id: str | None = None
    input: str | None = None
    answers: list[Answer] = field(default_factory=list)
    passed: int = 0


def collect_answers(
    columns: Mapping[str, Any],
    id_: str | None,
    said: Iterable[Said],
    seconds: Sequence[float | None] | None = None,
) -> ExportedRow:
    """Return a row whose answers are what counts and has a text."""
    answers = []
    passed = 0
    said = list(said)
    for place, (question, value, person, counts) in enumerate(said):
        text = to_text(value)
        if not counts or not text or not text.strip():
            passed += 1
            continue
        who = None if person is None else str(person)[:200]
        answers.append(Answer(text, who, seconds[place] if seconds else None, question))
    texts = [value for value in columns.values() if isinstance(value, str)]
    return ExportedRow(columns, id_, texts[0] if len(texts) == 1 else None, answers, passed)


def to_text(value: Any) -> str | None:
    """Return a text or number as text, else None."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def join_texts(value: Any) -> str | None:
    """Return one text of a text or a list of texts."""
    try:
        return "\n".join(to_texts(value)) or None
    except ValueError:
        return None


def to_seconds(value: Any) -> float | None:
    """Return a number of seconds, None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < float("inf") else None
