"""Import of existing labels from a file into a run whose annotator is human."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import SecretStr

from atgen_ray.annotation.human.task_store import (
    IMPORTED,
    TaskConflictError,
    TaskStore,
    is_closed,
    open_task_store,
)
from atgen_ray.core.errors import UserError
from atgen_ray.store.existing import open_runs
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import annotations, assignments, tasks


class ImportedLabel(NamedTuple):
    """A label for the example with that `id`, or else with that `input`, and who made it."""

    text: str
    id: str | None = None
    input: str | None = None
    annotator: str = IMPORTED


def import_labels(
    journal: Journal, run: str, texts: Mapping[str, str], labels: Sequence[ImportedLabel]
) -> dict[str, Any]:
    """Store labels as the answers of those who made them; nobody is paid for them.

    The label of an example that nobody was asked about joins the labelled set with the next labels
    that the run takes.

    Args:
        texts: the user turn of every example of the pool, by id.

    Returns:
        How many were `imported`, how many were there before (`known`), and those `refused`: the
        place in `labels` from 0, and the reason.

    Raises:
        TaskUnknownError, TaskConflictError: no such run, or none that people label.
    """
    task_store = open_task_store(journal, run)
    by_input = {text: id_ for id_, text in texts.items()}
    imported = 0
    known = 0
    refused = []
    # One transaction for all labels: the run's lock is taken once, and a kill imports none.
    with journal.run_transaction(run) as connection:
        now = journal.database.clock(connection)
        for place, label in enumerate(labels):
            id_ = label.id if label.id is not None else by_input.get(label.input or "")
            if id_ is None or id_ not in texts:
                refused.append({"place": place, "reason": "the pool has no such example"})
                continue
            try:
                if _enter(task_store, connection, label, id_, texts[id_], now):
                    imported += 1
                else:
                    known += 1
            except TaskConflictError as error:
                refused.append({"place": place, "reason": str(error)})
    return {"imported": imported, "known": known, "refused": refused}


def _enter(
    task_store: TaskStore,
    connection: sa.Connection,
    label: ImportedLabel,
    id_: str,
    text: str,
    now: float,
) -> bool:
    """Store one label; return whether it was new."""
    here = task_store.mine & (tasks.c.example_id == id_)
    task = connection.execute(sa.select(tasks).where(here)).mappings().one_or_none()
    mine = task_store.assignment(connection, id_, label.annotator)
    if mine is not None and mine["state"] == "submitted" and mine["text"] == label.text:
        return False
    if mine is not None:
        raise TaskConflictError(f"{label.annotator} works on it, or gave another answer")
    if task is not None and (
        is_closed(task) or task["decision"] is not None or task["state"] == "answered"
    ):
        raise TaskConflictError("it is labelled already")
    if task is None and _is_labeled(connection, task_store.run, id_):
        raise TaskConflictError("it is labelled already")
    if task is None:
        # Round 0: the run did not ask for this label, so no round's tasks include it.
        task_row = {
            "run": task_store.run,
            "example_id": id_,
            "round": 0,
            "rank": 0,
            "wanted": 1,
            "input": text,
            "state": "open",
            "changed": now,
        }
        connection.execute(sa.insert(tasks).values(task_row))
    answer = {
        "run": task_store.run,
        "example_id": id_,
        "annotator": label.annotator,
        "state": "submitted",
        "note": IMPORTED,
        "text": label.text,
        "leased": now,
        "until": now,
        "answered": now,
        "revision": 0,
    }
    connection.execute(sa.insert(assignments).values(answer))
    task_store.settle(connection, id_, now)
    return True


def _is_labeled(connection: sa.Connection, run: str, id_: str) -> bool:
    """Return whether the run has a label for the example, for instance one that it copied from
    another run.
    """
    mine = (annotations.c.run == run) & (annotations.c.example_id == id_)
    return connection.execute(sa.select(annotations.c.id).where(mine)).first() is not None


def import_file(
    name: str, storage: str, database_url: SecretStr | None, file: Path
) -> dict[str, Any]:
    """Import the labels in `file`; see `import_labels`.

    Raises:
        UserError: the run is unknown, has no people or no pool yet, or the file cannot be read as
            labels.
    """
    labels = read_labels(file, f"FILE is '{file}'")
    with open_runs(storage, database_url) as journal:
        journal.run(name)
        return bring_labels(journal, storage, name, labels)


def bring_labels(
    journal: Journal, storage: str, name: str, labels: Sequence[ImportedLabel]
) -> dict[str, Any]:
    """Import `labels` for the examples of the run's pool; see `import_labels`.

    Raises:
        TaskUnknownError, TaskConflictError: no such run, one without people as annotators, or one
            that has not read its pool yet.
    """
    open_task_store(journal, name)
    folder = RunFolder(storage, name)
    if not folder.exists("pool.parquet"):
        raise TaskConflictError(
            f"run '{name}' has not read its pool yet, expected `atgen-ray run` first"
        )
    rows = folder.read_table("pool.parquet", columns=["id", "text"]).to_pylist()
    return import_labels(journal, name, {row["id"]: row["text"] for row in rows}, labels)


def read_labels(file: Path, called: str) -> list[ImportedLabel]:
    """Read labels from a `.jsonl`, `.csv` or `.parquet` file: text, and id or input, and annotator
    where it is known.

    Raises:
        UserError: it cannot be read, or a row is no label; `called` is how the message begins.
    """
    return [
        _read_label(row, f"{called}, row {place}")
        for place, row in enumerate(read_rows(file, called), 1)
    ]


def read_rows(file: Path, called: str) -> list[dict[str, Any]]:
    import pyarrow as pa

    readers = {".jsonl": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise UserError(f"{called}, expected one that ends in .jsonl, .csv or .parquet")
    try:
        return readers[file.suffix](file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{called}, which cannot be read: {' '.join(str(error).split())[:200]}"
        ) from None


def _read_json(file: Path) -> list[dict[str, Any]]:
    import json

    return [
        json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()
    ]


def _read_csv(file: Path) -> list[dict[str, Any]]:
    import csv

    with file.open(encoding="utf-8-sig", newline="") as stream:
        return [
            {key: value or None for key, value in row.items()} for row in csv.DictReader(stream)
        ]


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def _read_label(row: Any, called: str) -> ImportedLabel:
    """Check a row and return its label."""
    given = dict[str, Any]()
    if isinstance(row, dict):
        names = ("text", "id", "input", "annotator")
        given = {name: row[name] for name in names if row.get(name) is not None}
    if (
        not given.get("text")
        or not (given.keys() & {"id", "input"})
        or not all(isinstance(value, str) for value in given.values())
    ):
        raise UserError(f"{called}, expected texts under the names text, and id or input")
    return ImportedLabel(**given)
