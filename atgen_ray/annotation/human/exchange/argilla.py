"""Records of Argilla: version 2 (`records.to_json`, `to_list`, and `to_datasets` or the hub), and
version 1 (feedback records, their hub form, and Text2Text). What is written is of version 2.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from atgen_ray.annotation.human.exchange.exported_row import (
    LABEL_FIELD,
    LABEL_QUESTION,
    ExportedRow,
    Said,
    collect_answers,
    to_seconds,
    to_text,
)

_FLAT = re.compile(r"(?P<question>.+)\.responses")


def is_record(row: Mapping[str, Any]) -> bool:
    """Return whether Argilla wrote the row."""
    if isinstance(row.get("fields"), Mapping):
        return "responses" in row or "suggestions" in row
    if "_server_id" in row or _is_text2text(row) or any(map(_FLAT.fullmatch, row)):
        return True
    return any(value and _is_hub_question(value) for value in row.values())


def read_record(row: Mapping[str, Any]) -> ExportedRow:
    """Return a record as a row."""
    id_ = to_text(row.get("id") or row.get("external_id"))
    if isinstance(row.get("fields"), Mapping):
        said = _list_argilla(row.get("responses"))
        known = _read_metadata(row.get("metadata"))
        people = [known.get(str(person), (person, None)) for _, _, person, _ in said]
        named = [
            (question, value, who, counts)
            for (question, value, _, counts), (who, _) in zip(said, people, strict=True)
        ]
        return collect_answers(row["fields"], id_, named, [seconds for _, seconds in people])
    if _is_text2text(row):
        done = row.get("status") in (None, "Validated")
        said = [("text", row["annotation"], row.get("annotation_agent"), done)]
        return collect_answers({"text": row.get("text")}, id_, said if row["annotation"] else [])
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
    return collect_answers(columns, id_, said)


def write_record(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task as a record that `rg.Dataset.records.from_json` and `Record.from_dict` read.

    Users of Argilla are UUIDs: each is made from the name, which the metadata keep.
    """
    suggestion = task["suggestion"]
    decision = task["decision"] or {}
    metadata = {
        "round": task["round"],
        "task": task["task"],
        "label": task["label"],
        "agreement": task["agreement"],
        "verdict": decision.get("verdict"),
        "decided_by": decision.get("by"),
        # A list of metadata holds texts alone.
        **{
            f"{key}s" if key == "annotator" else key: [
                "" if answer[key] is None else str(answer[key]) for answer in task["answers"]
            ]
            for key in ("annotator", "seconds", "note", "answered", "guidelines")
        },
    }
    return {
        "id": task["id"],
        "fields": {LABEL_FIELD: task["input"]},
        "metadata": {key: value for key, value in metadata.items() if value not in (None, [])},
        "suggestions": {
            LABEL_QUESTION: {
                "value": suggestion["text"],
                "score": None,
                "agent": suggestion.get("source"),
            }
        }
        if suggestion
        else {},
        "responses": {
            LABEL_QUESTION: [
                {
                    "value": answer["text"] if answer["state"] == "submitted" else None,
                    "user_id": name_user(answer["annotator"]),
                    "status": "submitted" if answer["state"] == "submitted" else "discarded",
                }
                for answer in task["answers"]
            ]
        },
        "vectors": {},
        "status": "pending" if task["task"] in ("open", "disputed") else "completed",
        "_server_id": None,
    }


def name_user(annotator: str) -> str:
    """Return the UUID that stands for a person in Argilla."""
    return str(uuid5(NAMESPACE_URL, annotator))


def _read_metadata(metadata: Any) -> dict[str, tuple[str, float | None]]:
    """Return names and seconds by the user of Argilla, of records that we exported."""
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("annotators"), list):
        return {}
    names = [str(name) for name in metadata["annotators"]]
    times = metadata.get("seconds")
    times = times if isinstance(times, list) and len(times) == len(names) else [None] * len(names)
    return {
        name_user(name): (name, to_seconds(time)) for name, time in zip(names, times, strict=True)
    }


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


def _is_hub_question(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, Mapping) and "user_id" in each and "value" in each for each in value
    )


def _is_text2text(row: Mapping[str, Any]) -> bool:
    return {"text", "annotation", "annotation_agent", "prediction"} <= row.keys()
