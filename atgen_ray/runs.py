"""Looking at runs from outside: their journal and their folder, without Ray."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from atgen_ray.errors import UserError, nearest
from atgen_ray.journal import Journal, open_journal
from atgen_ray.storage import RunFolder

FORMATS = ("jsonl", "parquet", "csv")


def list_runs(storage: str, database_url: SecretStr | None) -> list[dict[str, Any]]:
    """One row a run: name, status, round, labels, dollars and when it last changed (UTC, ISO 8601)."""
    journal = open_journal(storage, database_url)
    return [_summarize(journal, record.name) for record in journal.runs()]


def show_run(name: str, storage: str, database_url: SecretStr | None) -> dict[str, Any]:
    """A run's summary with its learning curve (`metrics`), `events` and `dead_letters`.

    Raises:
        UserError: no run has that name.
    """
    journal = open_journal(storage, database_url)
    summary = _summarize(journal, name)
    folder = RunFolder(storage, name)
    events = journal.events(name)
    return summary | {
        "message": next((event.payload["message"] for event in reversed(events) if "message" in event.payload), ""),
        "metrics": folder.read_json("metrics.json") if folder.exists("metrics.json") else [],
        "events": [{"kind": e.kind, "round": e.round, "step": e.step, "seconds": e.seconds} for e in events],
        "dead_letters": [
            {"round": round, "id": letter.id, "step": letter.step, "reason": letter.reason}
            for round, letter in journal.dead_letters(name)
        ],
    }


def stop_run(name: str, storage: str, database_url: SecretStr | None) -> str:
    """Asks whichever controller drives the run to stop, and says what will happen."""
    journal = open_journal(storage, database_url)
    if journal.ask_to_stop(name):
        return f"run '{name}' was asked to stop; it ends at its next chance with everything saved"
    return f"run '{name}' has no controller; its status is {journal.run(name).status}"


def export_labels(
    name: str, storage: str, database_url: SecretStr | None, format: str, output: Path | None
) -> tuple[int, Path]:
    """Writes the labelled set of a run; returns how many labels, and where.

    Raises:
        UserError: an unknown format or run.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if format not in FORMATS:
        raise UserError(f"--format is '{format}'{nearest(format, FORMATS)}")
    journal = open_journal(storage, database_url)
    journal.run(name)
    folder = RunFolder(storage, name)
    rows = folder.read_jsonl("labeled.jsonl") if folder.exists("labeled.jsonl") else []
    path = output or Path(f"{name}.{format}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "jsonl":
        from atgen_ray.storage import encode_json

        path.write_text("".join(encode_json(row) + "\n" for row in rows), encoding="utf-8")
        return len(rows), path
    columns = ("id", "input", "text", "annotator", "dollars", "round")
    table = pa.table({column: [row[column] for row in rows] for column in columns})
    if format == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path)
    return len(rows), path


def _summarize(journal: Journal, name: str) -> dict[str, Any]:
    record = journal.run(name)
    steps = [event for event in journal.events(name) if event.kind == "step"]
    annotations = journal.annotations(name)
    return {
        "name": name,
        "status": record.status,
        "round": max((event.round or 0 for event in steps), default=0),
        "labels": len(annotations),
        "dollars": round(sum(label.dollars for _, label in annotations), 6),
        "updated": datetime.fromtimestamp(record.updated, UTC).isoformat(timespec="seconds"),
    }
