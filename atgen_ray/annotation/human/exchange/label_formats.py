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
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.data.column_guess import ANSWERS, guess_columns
from atgen_ray.data.columns import find_leaves, to_texts

ROWS = "rows"
FORMATS = ("argilla", "label-studio", "prodigy", ROWS)
MAPPED = ("input", "text", "annotator", "id", "seconds")
PEOPLE = ("annotator", "annotator_id", "user", "user_id", "worker", "worker_id", "rater", "author")
# Names under which our own exports for other tools have the input and the label.
LABEL_FIELD = "input"
LABEL_QUESTION = "label"
LOOKED_AT = 50  # rows by which the format is told

_PASSED = ("skipped", "flagged", "leased", "discarded", "draft", "ignore", "reject")
# What Label Studio adds to the columns of the data in JSON_MIN and CSV.
_STUDIO = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
_PAIR = re.compile(rf"(?:^|,)({'|'.join(MAPPED)})=")
_FLAT = re.compile(r"(?P<question>.+)\.responses")
_PRODIGY_TEXTS = ("user_input", "transcript", "label")


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
    for name, is_theirs in _SIGNS.items():
        if seen and all(is_theirs(row) for row in seen):
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
    if told != chosen:
        raise UserError(f"{called}, which is no export of {chosen}: expected {_EXPECTED[chosen]}")
    read = [_READERS[chosen](row) for row in rows]
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
            input=_text(row.columns.get(source)) if source else row.input,
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
    answer = Answer(given["text"], given.get("annotator"), _number(given.get("seconds")), "text")
    return ExportedRow(row, given.get("id"), given.get("input"), [answer])


def _find(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, whose dots may lead into nested ones."""
    if name in row:
        return row[name]
    leaves = find_leaves(dict(row), name) or []
    values = [value for _, value in leaves if value is not None]
    return values[0] if values else None


def _read_argilla(row: Mapping[str, Any]) -> ExportedRow:
    id_ = _text(row.get("id") or row.get("external_id"))
    if isinstance(row.get("fields"), Mapping):
        said = _list_argilla(row.get("responses"))
        known = _read_metadata(row.get("metadata"))
        people = [known.get(str(person), (person, None)) for _, _, person, _ in said]
        named = [
            (question, value, who, counts)
            for (question, value, _, counts), (who, _) in zip(said, people, strict=True)
        ]
        return _sort(row["fields"], id_, named, [seconds for _, seconds in people])
    if _is_text2text(row):
        done = row.get("status") in (None, "Validated")
        said = [("text", row["annotation"], row.get("annotation_agent"), done)]
        return _sort({"text": row.get("text")}, id_, said if row["annotation"] else [])
    known = _read_metadata(row)  # which stand among the columns here
    said = [
        (question, value, known.get(str(person), (person, None))[0], counts)
        for question, value, person, counts in (*_list_flat(row), *_list_hub(row))
    ]
    questions = {question for question, *_ in said}
    columns = {
        name: value
        for name, value in row.items()
        if isinstance(value, str)
        and name not in questions
        and name not in ("id", "status", "external_id", "_server_id", "metadata")
        and ".suggestion" not in name
        and "-suggestion" not in name
    }
    return _sort(columns, id_, said)


def _read_metadata(metadata: Any) -> dict[str, tuple[str, float | None]]:
    """Return names and seconds by the user of Argilla, of records that we exported."""
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("annotators"), list):
        return {}
    names = [str(name) for name in metadata["annotators"]]
    times = metadata.get("seconds")
    times = times if isinstance(times, list) and len(times) == len(names) else [None] * len(names)
    return {
        str(uuid5(NAMESPACE_URL, name)): (name, _number(time))
        for name, time in zip(names, times, strict=True)
    }


Said = tuple[str, Any, Any, bool]  # question, value, person, whether it is an answer


def _list_argilla(responses: Any) -> list[Said]:
    """Yield what people said in nested records: of Argilla 2 by question, of Argilla 1 by
    person.
    """
    if isinstance(responses, Mapping):
        return [
            (question, each.get("value"), each.get("user_id"), _counts(each.get("status")))
            for question, given in responses.items()
            for each in given or []
        ]
    return [
        (question, value.get("value"), each.get("user_id"), _counts(each.get("status")))
        for each in responses or []
        for question, value in (each.get("values") or {}).items()
    ]


def _list_flat(row: Mapping[str, Any]) -> Iterable[Said]:
    """Yield what people said in the flat records of Argilla 2: three columns of lists a
    question.
    """
    for name, values in row.items():
        match = _FLAT.fullmatch(name)
        if match is None or not isinstance(values, list):
            continue
        people = row.get(f"{name}.users") or [None] * len(values)
        states = row.get(f"{name}.status") or [None] * len(values)
        for value, person, state in zip(values, people, states, strict=False):
            yield match["question"], value, person, _counts(state)


def _list_hub(row: Mapping[str, Any]) -> Iterable[Said]:
    """Yield what people said in the flat records of Argilla 1: a column of objects a question."""
    for name, values in row.items():
        for each in values if _is_hub_question(values) else ():
            yield name, each.get("value"), each.get("user_id"), _counts(each.get("status"))


def _counts(status: Any) -> bool:
    return status in (None, "submitted")


def _read_studio(row: Mapping[str, Any]) -> ExportedRow:
    if isinstance(row.get("data"), Mapping):
        given = row.get("annotations") or row.get("completions") or []
        said: list[Said] = []
        seconds = []
        for each in given:
            counts = not (each.get("was_cancelled") or each.get("skipped"))
            found = _list_results(each.get("result") or [])
            for question, text in found or [("", None)]:
                person = _name_person(each.get("completed_by")) or _text(each.get("annotator"))
                said.append((question, text, person, counts))
                seconds.append(_number(each.get("lead_time")))
        return _sort(row["data"], _text(row["data"].get("id")), said, seconds)
    # JSON_MIN and CSV: the results are columns beside those of the data.
    person = _name_person(row.get("annotator"))
    names = [name for name in row if name not in _STUDIO]
    time = _number(row.get("lead_time"))
    said = [(name, _join(row[name]), person, True) for name in names]
    columns = {name: row[name] for name in names}
    return _sort(columns, _text(row.get("id")), said, [time] * len(said))


def _list_results(results: Iterable[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Return the texts and choices of an annotation by the name of their control."""
    found = []
    for result in results:
        value = result.get("value")
        if isinstance(value, Mapping):
            text = value.get("text") if "labels" not in value else None
            text = text if text is not None else value.get("choices")
            if text is not None:
                found.append((str(result.get("from_name", "")), _join(text)))
    return found


def _name_person(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("email") or value.get("id")
    return None if value is None else str(value)


def _read_prodigy(row: Mapping[str, Any]) -> ExportedRow:
    counts = row.get("answer", "accept") == "accept"
    field_id = row.get("field_id")
    names = ([field_id] if isinstance(field_id, str) else []) + list(_PRODIGY_TEXTS)
    question = next((name for name in names if isinstance(row.get(name), str)), None)
    text = row.get(question) if question else None
    if text is None and isinstance(row.get("accept"), list):
        options = {each.get("id"): each.get("text") for each in row.get("options") or []}
        question = "accept"
        text = ", ".join(str(options.get(each) or each) for each in row["accept"])
    person = row.get("_annotator_id") or row.get("_session_id")
    columns = {
        name: value
        for name, value in row.items()
        if isinstance(value, str)
        and not name.startswith(("_", "field_"))
        and name not in ("answer", question)
    }
    said = [(question or "", text, person, counts)]
    meta = row.get("meta")
    id_ = meta.get("id") if isinstance(meta, Mapping) else None
    return _sort(columns, _text(row.get("id") or id_), said)


def _sort(
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
        text = _text(value)
        if not counts or not text or not text.strip():
            passed += 1
            continue
        who = None if person is None else str(person)[:200]
        answers.append(Answer(text, who, seconds[place] if seconds else None, question))
    texts = [value for value in columns.values() if isinstance(value, str)]
    return ExportedRow(columns, id_, texts[0] if len(texts) == 1 else None, answers, passed)


def _text(value: Any) -> str | None:
    """Return a text or number as text, else None."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _join(value: Any) -> str | None:
    """Return one text of a text or a list of texts."""
    try:
        return "\n".join(to_texts(value)) or None
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < float("inf") else None


def _is_hub_question(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, Mapping) and "user_id" in each and "value" in each for each in value
    )


def _is_text2text(row: Mapping[str, Any]) -> bool:
    return {"text", "annotation", "annotation_agent", "prediction"} <= row.keys()


def _is_argilla(row: Mapping[str, Any]) -> bool:
    if isinstance(row.get("fields"), Mapping):
        return "responses" in row or "suggestions" in row
    if "_server_id" in row or _is_text2text(row) or any(map(_FLAT.fullmatch, row)):
        return True
    return any(value and _is_hub_question(value) for value in row.values())


def _is_studio(row: Mapping[str, Any]) -> bool:
    if isinstance(row.get("data"), Mapping):
        return any(key in row for key in ("annotations", "completions", "predictions"))
    return {"annotation_id", "annotator", "lead_time"} <= row.keys()


def _is_prodigy(row: Mapping[str, Any]) -> bool:
    marked = row.get("answer") in ("accept", "reject", "ignore")
    return marked or "_task_hash" in row or "_input_hash" in row


_SIGNS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "argilla": _is_argilla,
    "label-studio": _is_studio,
    "prodigy": _is_prodigy,
}
_READERS: dict[str, Callable[[Mapping[str, Any]], ExportedRow]] = {
    "argilla": _read_argilla,
    "label-studio": _read_studio,
    "prodigy": _read_prodigy,
}
_EXPECTED = {
    "argilla": "records with fields and responses",
    "label-studio": "tasks with data and annotations, or rows with annotation_id and lead_time",
    "prodigy": "lines with answer: accept, reject or ignore",
}
