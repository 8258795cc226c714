"""Commands `atgen-ray runs`: list, show, stop, retry, add, promote, export, import and
calibrate.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atgen_ray.api.runs import list_runs as read_runs
from atgen_ray.api.runs import open_run
from atgen_ray.cli.options import AsJson, RunName, Storage, console
from atgen_ray.core.errors import UserError, printable

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, stop, retry, add to, promote, export and calibrate runs.",
)


@app.command("list")
def list_runs(
    storage: Storage = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived runs too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs of a storage with their status; with --json the archived ones too."""
    rows = read_runs(storage)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    rows = [row for row in rows if archived or not row["archived"]]
    table = Table(
        "name", "status", "round", "labels", "dollars", "updated", box=None, pad_edge=False
    )
    for row in rows:
        table.add_row(
            *(str(row[key]) for key in ("name", "status", "round", "labels", "dollars", "updated"))
        )
    console.print(table if rows else "no runs yet")
    from atgen_ray.store.run_records import INTERRUPTED, INTERRUPTION  # with the database's library

    if any(row["status"] == INTERRUPTED for row in rows):
        typer.echo(f"{INTERRUPTED}: {INTERRUPTION}")


@app.command("show")
def show_run(name: RunName, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show a run: status, learning curve and dead letters; with --json also its events."""
    from atgen_ray.reporting.growth import describe_added
    from atgen_ray.runs.console import curve_table, describe_annotation, rivals_table

    view = open_run(name, storage=storage).show()
    if as_json:
        typer.echo(json.dumps(view))
        return
    typer.echo(
        printable(
            f"run {name}: {view['status']}{': ' + view['message'] if view['message'] else ''}"
        )
    )
    if view["metrics"]:
        console.print(curve_table(view["metrics"], console.width))
    if view["rivalry"]:
        console.print(rivals_table(view["rivalry"], console.width))
        if said := view["rivalry"]["said"]:
            typer.echo(printable(said))
    for line in describe_annotation(view["annotation"]):
        typer.echo(printable(line))
    for change in view["changes"]:
        line = (
            f"{change['time']} {change['by']} changed {change['key']}: {change['before']!r} "
            f"-> {change['now']!r}"
        )
        typer.echo(printable(line))
    for line in describe_added(view["added"], view["growths"]):
        typer.echo(printable(line))
    for line in open_run(name, storage=storage).promotions():
        typer.echo(line)
    for line in view["label_changes"]:
        typer.echo(line)
    for letter in view["dead_letters"]:
        typer.echo(printable(f"dead letter {letter['id']} ({letter['step']}): {letter['reason']}"))
    if more := view["dead_letter_count"] - len(view["dead_letters"]):
        typer.echo(f"and {more:,} more dead letters")


@app.command("stop")
def stop_run(name: RunName, storage: Storage = None) -> None:
    """Ask the controller of a run to stop, wherever it is; everything committed is saved."""
    typer.echo(open_run(name, storage=storage).stop())


@app.command("retry")
def retry_run(
    name: RunName,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="ENDING",
            help="refused: the provider said no; dead: the answers failed their checks; in-doubt: "
            "the answer was lost on the way and may have been billed.",
            show_default="all three",
        ),
    ] = None,
    give_up: Annotated[
        str | None,
        typer.Option(
            metavar="BATCH",
            help="Id of a batch job that the provider will never hand out: its worst case counts "
            "as paid, and its requests alone are sent again.",
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Open what a model left without a label, once the cause is cured. The run's command then
    asks for it again, with the settings that the run has.
    """
    typer.echo(open_run(name, storage=storage).retry(only, give_up=give_up))


@app.command("add")
def add_to_run(
    name: RunName,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|URL",
            help="Rows for the pool, with the columns that it was read by.",
        ),
    ],
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Add rows to the pool of a run, without those that it has; it takes them before its next
    round. A run that has ended goes on by its command, if its stopping rules allow.
    """
    found = open_run(name, storage=storage).add(source)
    if as_json:
        typer.echo(json.dumps({"run": found.run, "source": found.source, **found.counts}))
    else:
        typer.echo(printable(str(found)))


@app.command("promote")
def promote_run(
    name: RunName,
    round: Annotated[
        int | None,
        typer.Argument(metavar="[ROUND]", help="Round whose adapter the name stands for."),
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="Go back to what was promoted before.")
    ] = False,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Score that must not be shown to be worse.",
            show_default="the run's first one",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it even if it is shown to be worse.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Let the model's name BASE:RUN answer with the adapter of a round, at once in every service;
    it is refused if its score is shown to be worse than that of what it replaces.
    """
    if back == (round is not None):
        raise UserError("expected ROUND or --back, one of the two")
    run = open_run(name, storage=storage)
    if round is None:
        typer.echo(run.take_promotion_back())
    else:
        typer.echo(run.promote(round, metric=metric, force=force))


@app.command("export")
def export_run(
    name: RunName,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Of labels: jsonl, parquet, csv, openai (chats for fine-tuning), or huggingface, "
            "which is a folder; argilla or label-studio, which hold answers.",
            show_default="jsonl",
        ),
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            help="labels: one for an example; answers: those of single people, with times, "
            "agreement and decisions (jsonl or csv); dataset: a folder of labels with their card; "
            "adapter; merged: the model with the adapter in its weights; gguf: the same for "
            "llama.cpp and Ollama; report; card: that of the model."
        ),
    ] = "labels",
    output: Annotated[
        Path | None,
        typer.Option(help="File or new folder to write.", show_default="NAME.FORMAT or NAME-WHAT"),
    ] = None,
    round: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Round of adapter, merged model or card.",
            show_default="the last one that was trained",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Repository of the Hugging Face hub to push a data set, a model or a card to, by "
            "the token in HF_TOKEN; a new one is private.",
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let others read that repository.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Write what one takes home from a run: the labelled set (id, input, text, annotator, dollars,
    round, and the run that bought it), the single answers of its people, a model, or a page on it.
    """
    from atgen_ray.annotation.human.exchange.label_export import TOOLS

    run = open_run(name, storage=storage)
    count, path = run.export(
        output, format=format, what=what, round=round, tell=_tell, push=push, public=public
    )
    noun = "answers" if what == "answers" or format in TOOLS else "labels"
    if what not in ("labels", "answers"):
        noun = "file" if count == 1 else "files"
    typer.echo(f"{count} {noun}: {path}")


def _tell(line: str) -> None:
    typer.echo(printable(line))


@app.command("import")
def import_run(
    name: RunName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Export of Argilla, Label Studio or Prodigy, or rows of id or input, text, "
            "annotator: .jsonl, .json, .csv, .tsv or .parquet.",
        ),
    ],
    format: Annotated[
        str, typer.Option(help="auto, argilla, label-studio, prodigy, csv or jsonl.")
    ] = "auto",
    map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=COLUMN,...",
            help="Columns of the file, or a tool's field and question: "
            "input=A,text=B; also id, annotator and seconds.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would happen.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Import existing labels into a run whose annotator is human; an export has the columns
    needed.
    """
    from atgen_ray.annotation.human.exchange.label_formats import parse_mapping

    found = open_run(name, storage=storage).import_labels(
        file, format=format, mapping=parse_mapping(map or []), rehearse=dry_run
    )
    passed = f", {found['passed']} without an answer" if found["passed"] else ""
    typer.echo(
        f"{found['imported']} labels {'would be ' if dry_run else ''}imported, "
        f"{found['known']} known before, {len(found['refused'])} refused{passed}"
    )
    for refusal in found["refused"]:
        typer.echo(f"row {refusal['place'] + 1}: {refusal['reason']}")


@app.command("calibrate")
def calibrate_run(
    name: RunName,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labels of people as .jsonl, .csv or .parquet: id or input, text.",
            show_default="those in the run",
        ),
    ] = None,
    quality: Annotated[float, typer.Option(help="Share of right labels that is wanted.")] = 0.95,
    match: Annotated[
        float, typer.Option(help="F1 of the words from which two labels say the same.")
    ] = 1.0,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Compare the annotating models of a run with people: how often each is right, and from which
    confidence on its labels are as good as wanted.
    """
    found = open_run(name, storage=storage).calibrate(labels, quality=quality, match=match)
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table(
        "annotator", "labels", "compared", "right", "accuracy", "threshold", "kept", box=None,
        pad_edge=False,
    )  # fmt: skip
    for row in found["annotators"]:
        shown = "-"
        if row["compared"]:
            shown = f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        threshold = "-" if row["threshold"] is None else f"{row['threshold']:.2f}"
        counts = (str(row[key]) for key in ("labels", "compared", "right"))
        table.add_row(printable(row["annotator"]), *counts, shown, threshold, f"{row['kept']:.0%}")
    typer.echo(f"compared with {printable(found['sample'])}")
    console.print(table)
    typer.echo(
        f"threshold: the confidence from which on at least {quality:.0%} of the labels are right, "
        f"with 95% certainty"
    )
