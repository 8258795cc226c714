"""Export of single answers with all that is known of them, as rows or in the formats of Argilla and
Label Studio.

`label_import` reads each of these files back: the same answers of the same people.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.exchange import argilla, label_studio
from atgen_ray.annotation.human.gold import is_gold
from atgen_ray.annotation.human.task_store import TaskStore, open_task_store
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.strict_json import encode_json
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import annotations, tasks

TOOLS = ("argilla", "label-studio")
ANSWER_FORMATS = ("jsonl", "csv", *TOOLS)
# Columns of a row, which is one answer.
COLUMNS = (
    "id", "input", "text", "annotator", "state", "note", "seconds", "answered", "guidelines",
    "round", "task", "label", "agreement", "verdict", "decided_by", "comment", "suggestion",
    "suggested_by",
)  # fmt: skip


def write_answers(
    journal: Journal,
    name: str,
    format: str,
    path: Path,
    examples: Sequence[str] | None = None,
) -> int:
    """Write every answer of the people of a run to `path`, and return their number.

    Args:
        format: one of ANSWER_FORMATS.
        examples: ids of the examples that count; default: all.

    Raises:
        UserError: an unknown format or run, a run without people, or a file that cannot be written.
    """
    if format not in ANSWER_FORMATS:
        raise UserError(
            f"--format is {format!r}, expected one of {', '.join(ANSWER_FORMATS)} for answers"
            f"{nearest(format, ANSWER_FORMATS)}"
        )
    found = read_tasks(journal, name, examples)
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            if format == "argilla":
                json.dump([argilla.write_record(task) for task in found], file)
            elif format == "label-studio":
                json.dump(
                    [label_studio.write_task(task, at) for at, task in enumerate(found, 1)], file
                )
            elif format == "csv":
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                # A journal holds lone surrogates, UTF-8 does not.
                writer.writerows(
                    {
                        key: value.encode("utf-8", "backslashreplace").decode()
                        if isinstance(value, str)
                        else value
                        for key, value in row.items()
                    }
                    for row in list_answers(found)
                )
            else:
                file.writelines(f"{encode_json(row)}\n" for row in list_answers(found))
    except OSError as error:
        raise UserError(
            f"--output is '{path}', which cannot be written: {error.strerror}"
        ) from None
    return sum(len(task["answers"]) for task in found)


def read_tasks(
    journal: Journal, name: str, examples: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the tasks of a run in the order of its rounds, each with its label so far, agreement,
    decision and `answers`.

    Raises:
        TaskUnknownError, TaskConflictError: no such run, or none that people label.
    """
    store = open_task_store(journal, name)
    query = sa.select(tasks).where(store.mine & ~is_gold())
    query = query.order_by(tasks.c.round, tasks.c.rank, tasks.c.example_id)
    labelled = sa.select(annotations.c.example_id, annotations.c.text)
    wanted = None if examples is None else set(examples)
    with journal.database.reading() as connection:
        rows = [
            row
            for row in connection.execute(query).mappings()
            if wanted is None or row["example_id"] in wanted
        ]
        given = connection.execute(labelled.where(annotations.c.run == name))
        labels: dict[str, str] = {row[0]: row[1] for row in given}
        answers = store.answers(connection, [row["example_id"] for row in rows])
        return [
            _describe(store, connection, row, answers[row["example_id"]], labels) for row in rows
        ]


def _describe(
    store: TaskStore,
    connection: sa.Connection,
    task: sa.RowMapping,
    answers: Sequence[sa.RowMapping],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Return one task; only where several people answered is it resolved anew."""
    given = [answer for answer in answers if answer["state"] == "submitted"]
    agreement = None
    label = labels.get(task["example_id"])
    if len(given) > 1:
        resolved = store.resolve(connection, task)
        agreement = resolved.agreement
        label = label if label is not None else resolved.text or None
    elif label is None and task["state"] == "answered":
        decision = task["decision"] or {}
        label = decision.get("text") or (given[0]["text"] if given else None)
    return {
        "id": task["example_id"],
        "input": task["input"],
        "round": task["round"],
        "task": task["state"],
        "label": label,
        "agreement": agreement,
        "decision": task["decision"],
        "suggestion": task["suggestion"],
        "answers": [
            {
                "annotator": answer["annotator"],
                "state": answer["state"],
                "text": answer["text"],
                "note": answer["note"],
                "seconds": answer["seconds"],
                "answered": _to_iso(answer["answered"]),
                # The version of the guidelines that the person had, where the run has versions.
                "guidelines": answer.get("guidelines"),
            }
            for answer in answers
        ],
    }


def list_answers(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row with COLUMNS for each answer to the tasks of `read_tasks`."""
    rows = []
    for task in found:
        decision = task["decision"] or {}
        suggestion = task["suggestion"] or {}
        common = {key: task[key] for key in ("id", "input", "round", "task", "label", "agreement")}
        common |= {
            "verdict": decision.get("verdict"),
            "decided_by": decision.get("by"),
            "comment": decision.get("comment"),
            "suggestion": suggestion.get("text"),
            "suggested_by": suggestion.get("source"),
        }
        for answer in task["answers"]:
            row = common | answer
            rows.append({name: row[name] for name in COLUMNS})
    return rows


def _to_iso(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, UTC).isoformat()
