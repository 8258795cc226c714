"""Command `atgen-ray audit`."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from atgen_ray.api.runs import find_place
from atgen_ray.cli.options import Storage
from atgen_ray.core.errors import UserError, nearest, printable

BROKEN = 1
FORMATS = ("text", "jsonl", "csv")
COLUMNS = (
    "sequence", "time", "channel", "token", "person", "address", "action", "of_run", "target",
    "result", "detail", "salt", "who_digest", "previous", "digest",
)  # fmt: skip


def audit(
    since: Annotated[
        str | None, typer.Option(help="From this time on: 2026-11-30 or 2026-11-30T08:15, UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    who: Annotated[str | None, typer.Option(help="Name of a person, or id of a token.")] = None,
    run: Annotated[str | None, typer.Option(help="Name of a run.")] = None,
    what: Annotated[str | None, typer.Option(help="Word of the action, as stop.")] = None,
    format: Annotated[str, typer.Option(help="text, jsonl or csv.")] = "text",
    output: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="standard output")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain, and print its head to keep.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(help="With --verify: a head NUMBER:DIGEST that was printed before."),
    ] = None,
    storage: Storage = None,
) -> None:
    """Show who changed what: token, person, address, action, run, time and result of every change
    by HTTP, page and command line, and of attempts that were refused.

    Each entry holds the hash of the one before. --verify finds a gap, a change or a removed end;
    --head shows as well that nothing before a head that was kept elsewhere was written anew.

    Exit status with --verify: 0 the chain holds, 1 it does not.

    Example: atgen-ray audit --run demo --since 2026-11-30 --format jsonl --output audit.jsonl
    """
    from atgen_ray.store.audit import AuditLog, Filter, parse_head
    from atgen_ray.store.existing import open_runs

    if format not in FORMATS:
        raise UserError(
            f"--format is {format[:80]!r}, expected text, jsonl or csv{nearest(format, FORMATS)}"
        )
    if head is not None and not verify:
        raise UserError(f"--head is {head[:90]!r}, which is compared by --verify, expected both")
    kept = None if head is None else parse_head(head)
    chosen = Filter(read_time(since, "--since"), read_time(until, "--until"), who, run, what)
    place, url = find_place(storage)
    with open_runs(place, url) as journal:
        log = AuditLog(journal.database)
        if verify:
            _verify(log, kept)
            return
        with _open(output) as file:
            _write(log.read(chosen), format, file)
        # Beside the entries, so that files in formats of tools stay so.
        typer.echo(f"head: {log.head()}", err=True)


def read_time(text: str | None, key: str) -> float | None:
    """Return a time, in UTC where it names no zone, in seconds since 1970; raises UserError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"{key} is {text[:40]!r}, expected a time as 2026-11-30 or 2026-11-30T08:15"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _verify(log: Any, kept: Any) -> None:
    found = log.verify(kept)
    for fault in found.faults:
        typer.echo(printable(f"broken: {fault}"))
    removed = f", {found.redacted} without their person" if found.redacted else ""
    typer.echo(f"{found.entries} entries{removed}: {'broken' if found.faults else 'whole'}")
    typer.echo(f"head: {found.head}")
    if found.faults:
        raise typer.Exit(BROKEN)


@contextmanager
def _open(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    try:
        with output.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise UserError(f"--output is '{output}', which cannot be written: {error}") from None


def _write(rows: Iterator[dict[str, Any]], format: str, file: TextIO) -> None:
    if format == "jsonl":
        for row in rows:
            file.write(json.dumps({key: row[key] for key in COLUMNS}) + "\n")
    elif format == "csv":
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for row in rows:
            table.writerow([_cell(row[key]) for key in COLUMNS])
    else:
        for row in rows:
            file.write(printable(_tell(row)) + "\n")


def _cell(value: Any) -> str:
    """Return a value as a cell; one that a spreadsheet would take for a formula gets a quote."""
    text = json.dumps(value) if isinstance(value, dict) else "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _tell(row: dict[str, Any]) -> str:
    time = datetime.fromtimestamp(row["time"], UTC).isoformat(timespec="seconds")
    who = row["person"] or row["token"] or ("removed" if row["salt"] is None else "nobody known")
    person = f"{who} ({row['token']})" if row["token"] not in (None, who) else who
    where = f" from {row['address']}" if row["address"] else ""
    on = " ".join(f"{key}={row[key]}" for key in ("of_run", "target") if row[key])
    said = " ".join(f"{key}={value}" for key, value in row["detail"].items() if value is not None)
    parts = (str(row["sequence"]), time, row["channel"], person + where, row["action"], on)
    return " | ".join((*parts, row["result"], said)).rstrip(" |")
