"""Labels that exist already, read from a file and brought into a run that people label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from atgen_ray.annotation.people.desk import TaskConflict, open_desk
from atgen_ray.annotation.people.importing import BroughtLabel, import_labels
from atgen_ray.errors import UserError
from atgen_ray.journal import Journal
from atgen_ray.storage import RunFolder
from atgen_ray.store.existing import open_runs


def import_file(name: str, storage: str, database_url: SecretStr | None, file: Path) -> dict[str, Any]:
    """Enters the labels in `file`; as `import_labels`.

    Raises:
        UserError: the run is unknown, has no people or no pool yet, or the file cannot be read as labels.
    """
    labels = read_labels(file, f"FILE is '{file}'")
    with open_runs(storage, database_url) as journal:
        journal.run(name)
        return bring_labels(journal, storage, name, labels)


def bring_labels(journal: Journal, storage: str, name: str, labels: Sequence[BroughtLabel]) -> dict[str, Any]:
    """Enters `labels` for the examples of the run's pool; as `import_labels`.

    Raises:
        TaskUnknown, TaskConflict: no such run, one that nobody labels, or one that has not read its pool yet.
    """
    open_desk(journal, name)
    folder = RunFolder(storage, name)
    if not folder.exists("pool.parquet"):
        raise TaskConflict(f"run '{name}' has not read its pool yet, expected `atgen-ray run` first")
    rows = folder.read_table("pool.parquet", columns=["id", "text"]).to_pylist()
    return import_labels(journal, name, {row["id"]: row["text"] for row in rows}, labels)


def read_labels(file: Path, called: str) -> list[BroughtLabel]:
    """The labels in a file of `.jsonl`, `.csv` or `.parquet`: text, and id or input, and annotator where it is known.

    Raises:
        UserError: it cannot be read, or a row is no label; `called` is how the message begins.
    """
    return [_read_label(row, f"{called}, row {place}") for place, row in enumerate(_read_rows(file, called), 1)]


def _read_rows(file: Path, called: str) -> list[dict[str, Any]]:
    import pyarrow as pa

    readers = {".jsonl": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise UserError(f"{called}, expected one that ends in .jsonl, .csv or .parquet")
    try:
        return readers[file.suffix](file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{called}, which cannot be read: {' '.join(str(error).split())[:200]}") from None


def _read_json(file: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]


def _read_csv(file: Path) -> list[dict[str, Any]]:
    import csv

    with file.open(encoding="utf-8-sig", newline="") as stream:
        return [{key: value or None for key, value in row.items()} for row in csv.DictReader(stream)]


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def _read_label(row: Any, called: str) -> BroughtLabel:
    found = {key: row.get(key) for key in ("text", "id", "input", "annotator")} if isinstance(row, dict) else {}
    given = {key: value for key, value in found.items() if value is not None}
    if not given.get("text") or not (given.keys() & {"id", "input"}) or not all(map(_is_text, given.values())):
        raise UserError(f"{called}, expected texts under the names text, and id or input")
    return BroughtLabel(**given)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
