"""Tasks of Label Studio: JSON, and the rows of JSON_MIN, CSV and TSV. Tasks are written as JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from atgen_ray.annotation.human.exchange.exported_row import (
    LABEL_FIELD,
    LABEL_QUESTION,
    ExportedRow,
    Said,
    collect_answers,
    join_texts,
    to_seconds,
    to_text,
)

# What it adds to the columns of the data in JSON_MIN and CSV.
_ADDED = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}


def is_task(row: Mapping[str, Any]) -> bool:
    """Return whether Label Studio wrote the row."""
    if isinstance(row.get("data"), Mapping):
        return any(key in row for key in ("annotations", "completions", "predictions"))
    return {"annotation_id", "annotator", "lead_time"} <= row.keys()


def read_task(row: Mapping[str, Any]) -> ExportedRow:
    """Return a task as a row."""
    if isinstance(row.get("data"), Mapping):
        given = row.get("annotations") or row.get("completions") or []
        said: list[Said] = []
        seconds = []
        for each in given:
            counts = not (each.get("was_cancelled") or each.get("skipped"))
            found = _list_results(each.get("result") or [])
            for question, text in found or [("", None)]:
                person = _name_person(each.get("completed_by")) or to_text(each.get("annotator"))
                said.append((question, text, person, counts))
                seconds.append(to_seconds(each.get("lead_time")))
        return collect_answers(row["data"], to_text(row["data"].get("id")), said, seconds)
    # JSON_MIN and CSV: the results are columns beside those of the data.
    person = _name_person(row.get("annotator"))
    names = [name for name in row if name not in _ADDED]
    time = to_seconds(row.get("lead_time"))
    said = [(name, join_texts(row[name]), person, True) for name in names]
    columns = {name: row[name] for name in names}
    return collect_answers(columns, to_text(row.get("id")), said, [time] * len(said))


def write_task(task: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a task as Label Studio imports it.

    It refuses e-mail addresses that it does not know and gives answers without one to whoever
    imports them, so other names stand in `annotator`, which it passes over.
    """
    suggestion = task["suggestion"]
    return {
        "id": number,
        "data": {"id": task["id"], LABEL_FIELD: task["input"], "round": task["round"]},
        "annotations": [
            {
                "id": number * 1000 + place,
                "result": _to_result(answer["text"]) if answer["state"] == "submitted" else [],
                "was_cancelled": answer["state"] != "submitted",
                "ground_truth": answer["state"] == "submitted" and answer["text"] == task["label"],
                "lead_time": answer["seconds"],
                "created_at": answer["answered"],
                "annotator": answer["annotator"],
                **(
                    {"completed_by": {"email": answer["annotator"]}}
                    if "@" in answer["annotator"]
                    else {}
                ),
            }
            for place, answer in enumerate(task["answers"], 1)
        ],
        "predictions": [
            {
                "model_version": suggestion.get("source") or "draft",
                "result": _to_result(suggestion["text"]),
            }
        ]
        if suggestion
        else [],
    }


def _list_results(results: Iterable[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Return the texts and choices of an annotation by the name of their control."""
    found = []
    for result in results:
        value = result.get("value")
        if isinstance(value, Mapping):
            text = value.get("text") if "labels" not in value else None
            text = text if text is not None else value.get("choices")
            if text is not None:
                found.append((str(result.get("from_name", "")), join_texts(text)))
    return found


def _name_person(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("email") or value.get("id")
    return None if value is None else str(value)


def _to_result(text: str) -> list[dict[str, Any]]:
    return [
        {
            "id": LABEL_QUESTION,
            "from_name": LABEL_QUESTION,
            "to_name": LABEL_FIELD,
            "type": "textarea",
            "value": {"text": [text]},
        }
    ]
