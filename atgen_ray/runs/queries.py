"""Queries on runs from outside: they read the journal and the run's folder and start no Ray.

Every query exists twice: one takes an open journal (for a process that holds one, such as the
service), the other opens the journal of a storage for that one question (for the command line).
None creates a storage that is not there.

Example:
    with open_runs("runs", None) as journal:
        print(describe_run(journal, "runs", "demo")["status"])
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import SecretStr

from atgen_ray.annotation.human.exchange.label_export import TOOLS, write_answers
from atgen_ray.annotation.llm.request_counts import summarize_requests
from atgen_ray.annotation.llm.retry import reopen_requests
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.locations import check_folder
from atgen_ray.core.records import INHERITED
from atgen_ray.core.strict_json import encode_json
from atgen_ray.runs.additions import Addition, add_rows
from atgen_ray.runs.messages import write_messages
from atgen_ray.runs.promotion import describe_promotion, promote_round, take_promotion_back
from atgen_ray.store.additions import describe_additions, describe_growths
from atgen_ray.store.changes import audited
from atgen_ray.store.events import CHANGED
from atgen_ray.store.existing import DEFAULT_STORAGE, open_runs
from atgen_ray.store.exports import note_export
from atgen_ray.store.journal import Journal, find_journal
from atgen_ray.store.label_changes import describe_stale_labels
from atgen_ray.store.layout import AUDIT_MODELS, PROVIDER_STATE, RIVALS, round_folder
from atgen_ray.store.ledger import read_balance, read_inherited
from atgen_ray.store.owner import name_user
from atgen_ray.store.promotions import list_promotions
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.run_records import explain_end
from atgen_ray.store.totals import RunTotals

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from atgen_ray.selection import Bound

OPENAI = "openai"  # chats for fine-tuning
FORMATS = ("jsonl", "parquet", "csv", "huggingface", OPENAI)
LABELS = "labels"  # what a model trains on: one for an example
ANSWERS = "answers"  # of single people
DEAD_LETTERS = 1000  # that a view of a run has


def list_runs(storage: str, database_url: SecretStr | None) -> list[dict[str, Any]]:
    """Return one row a run: name, title (None: the name), status, round, labels, dollars, when it
    last changed (UTC, ISO 8601), and whether it is archived.

    Raises:
        UserError: as `open_runs`; the default storage may not exist yet and then has no runs.
    """
    if storage == DEFAULT_STORAGE and find_journal(storage, database_url) is None:
        return []
    with open_runs(storage, database_url) as journal:
        return summarize_runs(journal)


def summarize_runs(journal: Journal) -> list[dict[str, Any]]:
    """Return the rows of `list_runs` from an open journal."""
    return [_summarize(journal, total) for total in journal.totals()]


def show_run(name: str, storage: str, database_url: SecretStr | None) -> dict[str, Any]:
    """Return `describe_run` of a run in `storage`.

    Raises:
        UserError: as `open_runs`, or no run has that name.
    """
    with open_runs(storage, database_url) as journal:
        return describe_run(journal, storage, name)


def describe_run(journal: Journal, storage: str, name: str) -> dict[str, Any]:
    """Return a run's summary with why it ended (`message`), its learning curve (`metrics`),
    `events` and the first `DEAD_LETTERS` of its `dead_letter_count` `dead_letters`.

    `annotation` has the `requests` of its annotating models by state, their `batches` under way,
    what the `provider` was doing when it was last seen (as `read_provider`), and the dollars `paid`
    and `held`, and those `inherited`: what another run, from which it was forked, had paid.
    `rivalry` is how the tuned model stands beside its rivals, and in a sentence (`said`) whether
    tuning was worth it; empty before there is any.
    `measured` is what `atgen-ray evaluate` found, a mapping for each model; empty for other runs.
    `label_changes` has a line for each round that trained on labels which changed afterwards.
    `changes` are the settings that it was given anew, each with `key`, `before`, `now`, `by` and
    `time`. `added` are the rows that it was given later, and `growths` when its pool took them; see
    `describe_additions` and `describe_growths`.

    Raises:
        UserError: no run has that name.
    """
    summary = _summarize(journal, journal.total(name))
    events = journal.events(name)
    dead = journal.dead_letters(name, limit=DEAD_LETTERS)
    annotation = summarize_requests(journal, name) | asdict(read_balance(journal, name))
    annotation["inherited"] = round(sum(read_inherited(journal, name).values()), 6)
    folder = RunFolder(storage, name)
    annotation["provider"] = read_provider(folder)
    return {
        **summary,
        "message": explain_end(summary["status"], events),
        "metrics": folder.read_json("metrics.json") if folder.exists("metrics.json") else [],
        "rivalry": folder.read_json(RIVALS) if folder.exists(RIVALS) else {},
        "measured": folder.read_json(AUDIT_MODELS) if folder.exists(AUDIT_MODELS) else [],
        "events": [
            {"kind": e.kind, "round": e.round, "step": e.step, "seconds": e.seconds} for e in events
        ],
        "annotation": annotation,
        "changes": [
            {**change, "by": event.payload["by"], "time": _to_iso(event.time)}
            for event in events
            if event.kind == CHANGED
            for change in event.payload["changes"]
        ],
        "added": [row | {"time": _to_iso(row["time"])} for row in describe_additions(events)],
        "growths": [row | {"time": _to_iso(row["time"])} for row in describe_growths(events)],
        "label_changes": describe_stale_labels(journal, name),
        "dead_letter_count": journal.count_dead_letters(name),
        "dead_letters": [
            {
                "round": round,
                "id": dead_letter.id,
                "step": dead_letter.step,
                "reason": dead_letter.reason,
            }
            for round, dead_letter in dead
        ],
    }


def read_provider(folder: RunFolder) -> dict[str, Any] | None:
    """Return what the run's provider was doing when it was last seen; None before the first time.

    Keys: `provider`, `in_flight` (calls or batch jobs), `waiting_until` (no call is made before),
    `queue_full`, `last_error`, `failing` (whether that is a recent one), and `time`. Times are in
    UTC, ISO 8601.
    """
    if not folder.exists(PROVIDER_STATE):
        return None
    state: dict[str, Any] = folder.read_json(PROVIDER_STATE)
    until = state["waiting_until"]
    times = {"time": _to_iso(state["time"]), "waiting_until": until and _to_iso(until)}
    return state | times


def stop_run(name: str, storage: str, database_url: SecretStr | None) -> str:
    """Ask the controller of a run in `storage` to stop, as `ask_to_stop`.

    Raises:
        UserError: as `open_runs`, or no run has that name.
    """
    with (
        open_runs(storage, database_url) as journal,
        audited(journal.database, "stop run", run=name),
    ):
        return ask_to_stop(journal, name)


def ask_to_stop(journal: Journal, name: str) -> str:
    """Ask whichever controller drives the run to stop, or end a run that has none at once; return a
    sentence that says what will happen.

    Raises:
        UserError: no run has that name.
    """
    if journal.ask_to_stop(name):
        return f"run '{name}' was asked to stop; it ends at its next chance with everything saved"
    if journal.end_undriven(name, "stopped on request while it had no controller"):
        return f"run '{name}' had no controller and is stopped now; everything committed is saved"
    return f"run '{name}' has no controller; its status is {journal.run(name).status}"


def retry_run(
    name: str, storage: str, database_url: SecretStr | None, only: str | None, batch: str | None
) -> str:
    """Open what ended without a label in a run of `storage`, as `reopen_requests`; return a
    sentence that says what will happen.

    Raises:
        UserError: as `open_runs` and `reopen_requests`.
    """
    with (
        open_runs(storage, database_url) as journal,
        audited(journal.database, "retry run", run=name, only=only, batch=batch),
    ):
        return str(reopen_requests(journal, name, only, batch))


def add_to_run(name: str, storage: str, database_url: SecretStr | None, source: str) -> Addition:
    """Add the rows of `source` to the pool of a run in `storage`, as `add_rows`.

    Raises:
        UserError: as `open_runs` and `add_rows`.
    """
    with (
        open_runs(storage, database_url) as journal,
        audited(journal.database, "add rows", run=name) as said,
    ):
        found = add_rows(journal, storage, name, source)
        said |= found.counts
        return found


def promote_run(
    name: str,
    storage: str,
    database_url: SecretStr | None,
    round: int | None,
    metric: str | None = None,
    force: bool = False,
) -> str:
    """Promote the adapter of `round` of a run in `storage`, as `promote_round`; None: go back to
    the promotion before. Return a sentence that says what holds now.

    Raises:
        UserError: as `open_runs`, `promote_round` and `take_promotion_back`.
    """
    with open_runs(storage, database_url) as journal:
        if round is None:
            with audited(journal.database, "take promotion back", run=name):
                return take_promotion_back(journal, name)
        target = f"round {round}"
        with audited(journal.database, "promote round", run=name, target=target, force=force):
            return promote_round(journal, storage, name, round, metric, force)


def show_promotions(name: str, storage: str, database_url: SecretStr | None) -> list[str]:
    """Return one line for each promotion of a run and each way back, the oldest first."""
    with open_runs(storage, database_url) as journal:
        return [
            f"{datetime.fromtimestamp(event.time, UTC):%Y-%m-%d %H:%M:%S} "
            f"{describe_promotion(event)}"
            for event in list_promotions(journal, name)
        ]


def export_labels(
    name: str,
    storage: str,
    database_url: SecretStr | None,
    format: str,
    output: Path | None,
    what: str = LABELS,
) -> tuple[int, Path]:
    """Write every label of a run in `storage` to a file, as `write_labels`, or every single answer
    of its people, as `write_answers`; by default to NAME.FORMAT in the working folder (chats to
    NAME-openai.jsonl). Return their number and the file.

    Raises:
        UserError: as `open_runs`, `write_labels` and `write_answers`.
    """
    tool = format in TOOLS  # whose files hold answers
    file = f"{name}-{OPENAI}.jsonl" if format == OPENAI else f"{name}.{'json' if tool else format}"
    path = output or Path(file)
    if tool or what == ANSWERS:
        check_folder(path)
        with open_runs(storage, database_url) as journal:
            journal.run(name)
            with audited(journal.database, "export answers", run=name) as said:
                said["rows"] = count = write_answers(journal, name, format, path)
            note_export(journal, name, ANSWERS, format, count, name_user(), str(path.absolute()))
            return count, path
    _check_export(format, path)
    with open_runs(storage, database_url) as journal:
        with audited(journal.database, "export labels", run=name) as said:
            said["rows"] = count = write_labels(journal, storage, name, format, path)
        note_export(journal, name, LABELS, format, count, name_user(), str(path.absolute()))
        return count, path


def write_labels(journal: Journal, storage: str, name: str, format: str, path: Path) -> int:
    """Write every label of the run to `path` and return their number. Columns: id, input, text,
    annotator, dollars, round, run.

    `run` is the run that bought the label: another one where the label was taken over, at no cost
    to this run. The format `huggingface` is a folder, which `datasets.load_from_disk` reads;
    `openai` has a chat for each label in place of the columns.

    Raises:
        UserError: an unknown format or run, a storage without the run's pool, or a file that cannot
            be written.
    """
    _check_export(format, path)
    rows = read_labels(journal, storage, name)
    if format == OPENAI:
        prompt = journal.run(name).config.get("prompt") or {}
        _write([*write_messages(rows, prompt.get("system"))], path, "jsonl")
    else:
        _write(rows, path, format)
    return len(rows)


def read_labels(journal: Journal, storage: str, name: str) -> list[dict[str, Any]]:
    """Return every label of the run, with the columns of `write_labels`.

    Raises:
        UserError: an unknown run, or a storage without the run's pool.
    """
    journal.run(name)
    labels = journal.annotations(name)
    folder = RunFolder(storage, name)
    if labels and not folder.exists("pool.parquet"):
        raise UserError(
            f"--storage is {storage!r}, expected the one that holds the folder of run '{name}'"
        )
    ids = [label.id for _, label in labels]
    pool = folder.read_rows("pool.parquet", ids, ["id", "text"]) if labels else []
    inputs = {row["id"]: row["text"] for row in pool}
    return [
        {
            "id": label.id,
            "input": inputs[label.id],
            "text": label.text,
            "annotator": label.annotator,
            "dollars": label.dollars,
            "round": round,
            "run": label.provenance.get(INHERITED, {}).get("run", name),
        }
        for round, label in labels
    ]


def export_selection(name: str, storage: str, output: Path) -> tuple[int, int]:
    """Write the first batch of the run as JSON Lines by rank: id, rank, source row, input, score
    and its parts. Return the number of examples written, and that of the pool.

    Raises:
        UserError: `output` cannot be written.
    """
    folder = RunFolder(storage, name)
    rows = read_picks(folder, 1)
    _write(rows, output, "jsonl")
    return len(rows), folder.count_rows("pool.parquet")


def find_bound(name: str, storage: str) -> "Bound | None":
    """Return how near the first batch of the run is to the best one; None if that is not known."""
    from atgen_ray.selection import read_bound  # with all strategies, which no other query needs

    path = f"{round_folder(1)}/selection.parquet"
    return read_bound(RunFolder(storage, name).read_table(path, ["id"]))


def read_picks(folder: RunFolder, round: int) -> list[dict[str, Any]]:
    """Return the batch that was selected in `round`, by rank, as `export_selection` writes it; none
    if the round has no selection yet.
    """
    if not folder.exists(rel := f"{round_folder(round)}/selection.parquet"):
        return []
    picks = folder.read_table(rel).to_pylist()
    ids = [pick["id"] for pick in picks]
    rows = folder.read_rows("pool.parquet", ids, ["id", "row", "text"])
    pool = {row["id"]: row for row in rows if row["text"]}  # none: it was deleted
    return [
        {
            "rank": pick["rank"],
            "id": pick["id"],
            "row": pool[pick["id"]]["row"],
            "input": pool[pick["id"]]["text"],
            "score": pick["score"],
            "parts": dict(pick["parts"]),
        }
        for pick in picks
        if pick["id"] in pool
    ]


def _check_export(format: str, path: Path) -> None:
    if format not in FORMATS:
        raise UserError(
            f"--format is {format!r}, expected {', '.join(FORMATS)}, "
            f"{' or '.join(TOOLS)}{nearest(format, (*FORMATS, *TOOLS))}"
        )
    check_folder(path)


def _write(rows: list[dict[str, Any]], path: Path, format: str) -> None:
    try:
        if format == "huggingface":
            _save_dataset(rows, path)
            return
        with path.open("wb") as file:
            _encode(rows, file, format)
    except OSError as error:
        raise UserError(
            f"--output is '{path}', which cannot be written: {error.strerror}"
        ) from None


def _save_dataset(rows: list[dict[str, Any]], path: Path) -> None:
    from datasets import disable_progress_bars

    disable_progress_bars()
    build_dataset(rows).save_to_disk(str(path), num_shards=1)  # without rows it has no other shard


def build_dataset(rows: list[dict[str, Any]]) -> "Dataset":
    """Return rows of `read_labels` as a dataset of the library `datasets`."""
    from datasets import Dataset, Features

    table = tabulate_labels(rows)
    # Not the table itself, which has no blocks without rows: an empty dataset must read back too.
    return Dataset.from_dict(table.to_pydict(), Features.from_arrow_schema(table.schema))


def _encode(rows: list[dict[str, Any]], file: BinaryIO, format: str) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    if format == "jsonl":
        file.writelines(encode_json(row).encode() + b"\n" for row in rows)
    elif format == "csv":
        pyarrow.csv.write_csv(tabulate_labels(rows), file)
    else:
        pyarrow.parquet.write_table(tabulate_labels(rows), file)


def tabulate_labels(rows: list[dict[str, Any]]) -> "pa.Table":
    """Return rows of `read_labels` as a table, which has its columns even without a row."""
    import pyarrow as pa

    kinds = {"id": pa.string(), "input": pa.string(), "text": pa.string(), "annotator": pa.string()}
    more = {"dollars": pa.float64(), "round": pa.int32(), "run": pa.string()}
    # A journal holds lone surrogates, UTF-8 does not: they are written as JSON writes them.
    texts = [
        row | {"text": row["text"].encode("utf-8", "backslashreplace").decode()} for row in rows
    ]
    return pa.Table.from_pylist(texts, pa.schema(kinds | more))


def _summarize(journal: Journal, total: RunTotals) -> dict[str, Any]:
    return {
        "name": total.name,
        "status": journal.describe_status(total),
        "round": total.round,
        "labels": total.labels,
        "dollars": round(total.dollars, 6),
        "updated": _to_iso(total.changed),
        "title": total.title,
        "archived": total.archived is not None,
    }


def _to_iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
