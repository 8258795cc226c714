"""Lines of `prodigy db-out`."""

from collections.abc import Mapping
from typing import Any

from atgen_ray.annotation.human.exchange.exported_row import (
    ExportedRow,
    collect_answers,
    to_text,
)

_TEXTS = ("user_input", "transcript", "label")


def is_line(row: Mapping[str, Any]) -> bool:
    """Return whether Prodigy wrote the row."""
    marked = row.get("answer") in ("accept", "reject", "ignore")
    return marked or "_task_hash" in row or "_input_hash" in row


def read_line(row: Mapping[str, Any]) -> ExportedRow:
    """Return a line as a row."""
    counts = row.get("answer", "accept") == "accept"
    field_id = row.get("field_id")
    names = ([field_id] if isinstance(field_id, str) else []) + list(_TEXTS)
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
    return collect_answers(columns, to_text(row.get("id") or id_), said)
