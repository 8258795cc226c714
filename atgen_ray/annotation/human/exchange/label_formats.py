"""Labels in files of other tools: what each tool writes, and how a file tells which tool wrote it.

| format | what is read |
| --- | --- |
| argilla | Argilla 2 (`records.to_json`, `to_list`, and `to_datasets` or the hub) and Argilla 1 |
| label-studio | JSON, JSON_MIN, CSV and TSV of Label Studio |
| prodigy | the JSON Lines of `prodigy db-out` |
| rows | a label in each row, under column names that a mapping may name; also our own exports |

A row of any of them becomes an `ExportedRow`: what the tool showed, and the answers to it. Drafts,
skips, rejections and cancelled annotations are no answers; they are counted. Suggestions and
predictions of models are not read.

The formats are those of Argilla 2.8, Label Studio (its SDK 2.1) and Prodigy's documentation.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from atgen_ray.annotation.human.exchange import argilla, label_studio, prodigy
from atgen_ray.annotation.human.exchange.exported_row import (
    Answer,
    ExportedRow,
    to_seconds,
    to_text,
)
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.data.column_guess import ANSWERS, guess_columns
from atgen_ray.data.columns import find_leaves

ROWS = "rows"
MAPPED = ("input", "text", "annotator", "id", "seconds")
PEOPLE = ("annotator", "annotator_id", "user", "user_id", "worker", "worker_id", "rater", "author")
LOOKED_AT = 50  # rows by which the format is told

_PASSED = ("skipped", "flagged", "leased", "discarded", "draft", "ignore", "reject")
_PAIR = re.compile(rf"(?:^|,)({'|'.join(MAPPED)})=")


@dataclass(frozen=True)
class _Tool:
    """How rows of a tool are told and read, and what is `expected` of a file that has none."""

    is_theirs: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], ExportedRow]
    expected: str


_TOOLS = {
    "argilla": _Tool(argilla.is_record, argilla.read_record, "records with fields and responses"),
    "label-studio": _Tool(
        label_studio.is_task,
        label_studio.read_task,
        "tasks with data and annotations, or rows with annotation_id and lead_time",
    ),
    "prodigy": _Tool(
        prodigy.is_line, prodigy.read_line, "lines with answer: accept, reject or ignore"
    ),
}
FORMATS = (*_TOOLS, ROWS)


@dataclass(frozen=True)
class LabelFile:
    """The labels of a file, with how they were read."""

    format: str
    columns: list[str]  # that may be mapped
    questions: list[str]  # of a tool, or columns that may hold the label
    mapping: dict[str, str]
    rows: list[ExportedRow]


def parse_mapping(given: Iterable[str]) -> dict[str, str]:
    """Return the mapping in texts as `input=COLUMN,text=COLUMN`; a name may hold a comma.

    Raises:
        UserError: a text of another form.
    """
    mapping: dict[str, str] = {}
    for text in given:
        parts = _PAIR.split(text)
        if len(parts) < 3 or parts[0]:
            known = ", ".join(f"{key}=COLUMN" for key in MAPPED)
            raise UserError(f"--map is {text[:80]!r}, expected some of {known}, with commas")
        mapping |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return mapping


def tell_format(rows: Sequence[Any]) -> str:
    """Return the tool that wrote the rows; `rows` where none did."""
    seen = [row for row in rows[:LOOKED_AT] if isinstance(row, Mapping)]
    for name, tool in _TOOLS.items():
        if seen and all(tool.is_theirs(row) for row in seen):
            return name
    return ROWS


def read_label_rows(
    rows: Sequence[Any],
    called: str,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    guess: bool = False,
) -> LabelFile:
    """Return the labels of the rows of a file.

    Args:
        called: how a message begins that is about the file.
        format: one of FORMATS, `csv` or `jsonl` (both `rows`), or `auto`.
        mapping: names of columns, or of a tool's field and question, by MAPPED.
        guess: guess columns that no name tells, for a person to confirm; else they are an error.

    Raises:
        UserError: an unknown format, mapping or column, a row that is none, or columns that have to
            be named.
    """
    mapping = dict(mapping or {})
    for key in mapping:
        if key not in MAPPED:
            raise UserError(f"the mapping of {key[:80]!r} is unknown{nearest(key, MAPPED)}")
    chosen = {"csv": ROWS, "jsonl": ROWS}.get(format, format)
    if chosen not in ("auto", *FORMATS):
        known = ("auto", *FORMATS, "csv", "jsonl")
        raise UserError(f"format is {format[:80]!r}, expected one of {', '.join(known)}")
    for place, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            names = "texts under the names text, and id or input"
            raise UserError(f"{called}, row {place}, expected {names}")
    told = tell_format(rows)
    if chosen == "auto":
        chosen = told
    if chosen == ROWS:
        return _read_plain(rows, called, mapping, guess)
    tool = _TOOLS[chosen]
    if told != chosen:
        raise UserError(f"{called}, which is no export of {chosen}: expected {tool.expected}")
    read = [tool.read(row) for row in rows]
    return _choose(chosen, read, called, mapping, guess)


def _choose(
    format: str, rows: list[ExportedRow], called: str, mapping: dict[str, str], guess: bool
) -> LabelFile:
    """Return the rows with the answers to one question, and the input from the mapped field."""
    asked = Counter(answer.question for row in rows for answer in row.answers)
    questions = list(asked)
    columns = list(dict.fromkeys(name for row in rows for name in row.columns))
    question = mapping.get("text")
    if question is None and len(questions) > 1:
        named = [each for each in questions if each.lower() in ANSWERS]
        question = named[0] if len(named) == 1 else None
        if question is None and guess:
            question = asked.most_common(1)[0][0]
        if question is None:
            raise UserError(
                f"{called}, which has answers to {', '.join(questions)}: expected text=QUESTION in "
                f"the mapping"
            )
    elif question is None:
        question = questions[0] if questions else ""
    elif question not in questions:
        raise UserError(
            f"{called}, which has no answers to {question[:80]!r}{nearest(question, questions)}"
        )
    source = mapping.get("input")
    if source is not None and source not in columns:
        raise UserError(f"{called}, which has no field {source[:80]!r}{nearest(source, columns)}")
    chosen = [
        replace(
            row,
            input=to_text(row.columns.get(source)) if source else row.input,
            answers=[answer for answer in row.answers if answer.question == question],
        )
        for row in rows
    ]
    used = {"text": question} if question else {}
    used |= {"input": source} if source else {}
    return LabelFile(format, columns, questions, used, chosen)


def _read_plain(
    rows: Sequence[Mapping[str, Any]], called: str, mapping: dict[str, str], guess: bool
) -> LabelFile:
    """Read a label from each row."""
    found = guess_columns(rows[:LOOKED_AT])
    columns = [column.name for column in found.columns]
    for name in mapping.values():
        if rows and all(find_leaves(dict(row), name) is None for row in rows):
            raise UserError(f"{called}, which has no column {name[:80]!r}{nearest(name, columns)}")
    names = {key: key for key in MAPPED if key in columns} | mapping
    plain = "text" in names and ("id" in names or "input" in names)
    if not plain and columns:
        likely = {
            "input": found.input,
            "text": found.answer,
            "annotator": next((each for each in columns if each.lower() in PEOPLE), None),
        }
        known = "id" in columns
        if known and found.answer is None:  # then what looks like the input is the label
            likely |= {"input": None, "text": found.input}
        # A column named `text` is the input where another one looks like the answer.
        guessed = {key: name for key, name in likely.items() if name is not None} | mapping
        if not guess:
            wanted = ({} if known else {"input": "COLUMN"}) | {"text": "COLUMN"} | guessed
            said = ",".join(f"{key}={name}" for key, name in wanted.items())
            shown = ", ".join(columns[:12])
            raise UserError(f"{called}, whose columns are {shown}: expected a mapping as {said}")
        names = {key: key for key in ("id", "seconds") if key in columns} | guessed
    return LabelFile(
        ROWS,
        columns,
        columns,
        names,
        [
            _read_row(row, names, f"{called}, row {place}", guess)
            for place, row in enumerate(rows, 1)
        ],
    )


def _read_row(
    row: Mapping[str, Any], names: Mapping[str, str], called: str, lenient: bool
) -> ExportedRow:
    """Check a row and return it; our own exports say in `state` what is no answer."""
    given = {key: _find(row, name) for key, name in names.items()}
    given = {key: value for key, value in given.items() if value is not None}
    if row.get("state") in _PASSED and row.get("text") in (None, ""):
        return ExportedRow(row, given.get("id"), given.get("input"), passed=1)
    texts = {key: value for key, value in given.items() if key != "seconds"}
    if (
        not given.get("text")
        or not (given.keys() & {"id", "input"})
        or not all(isinstance(value, str) for value in texts.values())
    ):
        if lenient:
            return ExportedRow(row, passed=1)
        text, *sources = (names.get(key, key) for key in ("text", "id", "input"))
        raise UserError(
            f"{called}, expected texts under the names {text}, and {' or '.join(sources)}"
        )
    answer = Answer(given["text"], given.get("annotator"), to_seconds(given.get("seconds")), "text")
    return ExportedRow(row, given.get("id"), given.get("input"), [answer])


def _find(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, whose dots may lead into nested ones."""
    if name in row:
        return row[name]
    leaves = find_leaves(dict(row), name) or []
    values = [value for _, value in leaves if value is not None]
    return values[0] if values else None
