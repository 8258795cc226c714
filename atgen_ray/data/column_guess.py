"""A guess at which columns of a table hold the input and the answer, by their names and values.

It fills in a form that a person then checks, so it prefers no guess to a bad one for the answer.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from atgen_ray.data.columns import find_leaves, list_columns, to_texts
from atgen_ray.data.conversations import is_conversation

# Words in the names of columns, the most telling first.
INPUTS = (
    "input", "prompt", "question", "instruction", "document", "article", "source", "dialogue",
    "abstract", "text", "content", "context", "passage", "sentence", "messages", "body",
    "frage", "pregunta", "texte", "texto",
)  # fmt: skip
ANSWERS = (
    "output", "answer", "answers", "label", "reference", "references", "summary", "target",
    "completion", "response", "highlights", "translation", "user_input", "responses",
    "antwort", "zusammenfassung", "réponse", "résumé", "respuesta", "resumen",
)  # fmt: skip
# Where exports of Label Studio, Argilla 2 and Prodigy keep free text.
EXPORTED = re.compile(
    r"(annotations|completions)\.result\.value\.(text|choices)|responses\.[^.]+\.value|user_input"
)
IDS = ("id", "_id", "uuid")  # never the input, however long
DECISIONS = {"accept", "reject", "ignore"}  # of Prodigy, whose column `answer` holds no text
SAMPLE = 80  # characters of a value that are shown


@dataclass(frozen=True)
class Column:
    """One column as a person chooses it: its dotted name, and what its values are like."""

    name: str
    kind: str  # text, number, chat, list, object or empty
    filled: float  # share of the rows that have a value
    chars: float  # mean length of a value as text
    sample: str


@dataclass(frozen=True)
class Guess:
    """All columns, and the names of the input's and the answer's; None where nothing tells."""

    columns: list[Column]
    input: str | None
    answer: str | None

    def to_plain(self) -> dict[str, Any]:
        """Return the guess as plain data."""
        return asdict(self)


def guess_columns(rows: Sequence[Mapping[str, Any]]) -> Guess:
    """Return the columns of the first rows of a table, in their order, with the guess."""
    names = dict.fromkeys(name for row in rows for name in list_columns(dict(row), depth=5))
    columns = [_describe(name, rows) for name in names]
    usable = [
        each
        for each in columns
        if each.kind in ("text", "chat") and each.sample not in {"", *DECISIONS}
    ]
    exported = (each.name for each in usable if EXPORTED.fullmatch(each.name))
    answer = next(exported, None) or _find(usable, ANSWERS, besides=None)
    given = _find(usable, INPUTS, besides=answer)
    if given is None:
        others = [each for each in usable if each.name != answer and each.name not in IDS]
        given = max(others, key=lambda each: each.chars).name if others else None
    if answer is None:
        numbers = [each for each in columns if each.kind == "number"]
        answer = _find(numbers, ANSWERS, besides=given)
    return Guess(columns, given, answer)


def recognise_export(columns: Set[str]) -> str:
    """Return the settings for the export of another tool with these columns, as the end of a
    message; an empty text for any other data.
    """
    fields = sorted(each for each in columns if each.startswith("fields."))
    if fields and "responses" in columns:
        asked = sorted(each for each in columns if re.fullmatch(r"responses\.[^.]+\.value", each))
        return _advise("Argilla", fields, asked)
    inner = sorted(each for each in columns if each.startswith("data."))
    if inner and columns & {"annotations", "completions"}:
        return _advise("Label Studio", inner, ["annotations.result.value.text"])
    if "_task_hash" in columns:
        return _advise("Prodigy", ["text"], [each for each in ("user_input",) if each in columns])
    return ""


def _advise(tool: str, inputs: Sequence[str], answers: Sequence[str]) -> str:
    known = f" and data.references one of {', '.join(answers)}" if answers else ""
    return f"; this is an export of {tool}, whose data.input is one of {', '.join(inputs)}{known}"


def _find(columns: Sequence[Column], words: Sequence[str], besides: str | None) -> str | None:
    """Return the column whose name has the most telling of `words`: whole first, then as a part."""
    ranked = [
        (how, words.index(word), place, each.name)
        for place, each in enumerate(columns)
        if each.name != besides
        for word in words
        if (how := _match(each.name.lower(), word)) is not None
    ]
    return min(ranked)[3] if ranked else None


def _match(name: str, word: str) -> int | None:
    """Return how well a word names a column: 0 for its whole name, 1 for its last part, 2 for a
    part of a nested name, or None.
    """
    if name == word:
        return 0
    parts = name.split(".")
    last = parts[-1].replace("-", "_").replace(" ", "_").split("_")
    if parts[-1] == word or word in last:
        return 1
    return 2 if word in parts else None


def _describe(name: str, rows: Sequence[Mapping[str, Any]]) -> Column:
    found = [leaf for row in rows for leaf in (find_leaves(dict(row), name) or [])]
    values = [value for _, value in found if value is not None and value != ""]
    kinds = {_tell_kind(value) for value in values}
    kind = kinds.pop() if len(kinds) == 1 else "text" if kinds else "empty"
    texts = [show_value(value) for value in values]
    return Column(
        name=name,
        kind=kind,
        filled=min(1.0, len(values) / len(rows)) if rows else 0.0,
        chars=fmean(map(len, texts)) if texts else 0.0,
        sample=texts[0][:SAMPLE] if texts else "",
    )


def _tell_kind(value: Any) -> str:
    if is_conversation(value):
        return "chat"
    if isinstance(value, list):
        inner = {_tell_kind(item) for item in value}
        return inner.pop() if len(inner) == 1 and inner <= {"text", "number"} else "list"
    if isinstance(value, dict):
        return "object"
    return "number" if isinstance(value, int | float) else "text"


def show_value(value: Any) -> str:
    """Return a value as text for a person."""
    try:
        return "\n".join(to_texts(value))
    except ValueError:
        return str(value)
