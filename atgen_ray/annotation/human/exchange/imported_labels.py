"""Labels that were made elsewhere, as a file has them: read, listed and shown."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atgen_ray.annotation.human.exchange.label_files import read_rows
from atgen_ray.annotation.human.exchange.label_formats import LabelFile, read_label_rows
from atgen_ray.annotation.human.task_store import IMPORTED

SHOWN_ROWS = 5
SHOWN = 400  # characters of a value that are shown


class ImportedLabel(NamedTuple):
    """A label for the example with that `id`, or else with that `input`, and who made it.

    `columns` are what another tool showed: the example is the one whose prompt they make. `place`
    is that of its row in a file, from 0; None for its place in the list.
    """

    text: str
    id: str | None = None
    input: str | None = None
    annotator: str = IMPORTED
    seconds: float | None = None
    columns: Mapping[str, Any] = {}
    place: int | None = None


def list_labels(found: LabelFile) -> list[ImportedLabel]:
    """Return the labels of a file, each with the place of its row."""
    return [
        ImportedLabel(
            text=answer.text,
            id=row.id,
            input=row.input,
            annotator=answer.annotator or IMPORTED,
            seconds=answer.seconds,
            columns=row.columns,
            place=place,
        )
        for place, row in enumerate(found.rows)
        for answer in row.answers
    ]


def read_labels(file: Path, called: str) -> list[ImportedLabel]:
    """Read labels from a file of any format of `label_formats`, as it tells itself.

    Raises:
        UserError: it cannot be read, or a row is no label; `called` is how the message begins.
    """
    return list_labels(read_label_rows(read_rows(file, called), called))


def describe_file(found: LabelFile) -> dict[str, Any]:
    """Return how a file was read, for a person who is to confirm it."""
    people: dict[str, int] = defaultdict(int)
    for label in list_labels(found):
        people[label.annotator] += 1
    return {
        "format": found.format,
        "columns": found.columns,
        "questions": found.questions,
        "mapping": found.mapping,
        "rows": [
            {
                "input": (row.input or " · ".join(map(str, row.columns.values())))[:SHOWN],
                "answers": [
                    {"annotator": answer.annotator or IMPORTED, "text": answer.text[:SHOWN]}
                    for answer in row.answers
                ],
            }
            for row in found.rows[:SHOWN_ROWS]
        ],
        "labels": sum(people.values()),
        "passed": sum(row.passed for row in found.rows),
        "people": dict(sorted(people.items(), key=lambda pair: -pair[1])[:20]),
    }
