"""Commands `atgen-ray delete`: example, label, person, upload, run, list and show."""

import json
from typing import Annotated, Any

import typer

from atgen_ray.api.deleting import delete
from atgen_ray.api.runs import find_place
from atgen_ray.cli.options import AsJson, Storage
from atgen_ray.core.errors import UserError, printable

app = typer.Typer(
    no_args_is_help=True,
    help="Delete examples, labels, a person's name, uploads and runs everywhere they lie, with a "
    "certificate. --dry-run shows all of it first.",
)
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would happen.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of examples.")]
InRun = Annotated[
    str | None, typer.Option("--run", help="Only in this run.", show_default="all runs")
]


@app.command("example")
def delete_example(
    ids: Ids, run: InRun = None, dry_run: DryRun = False, storage: Storage = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Delete examples: texts, labels, answers, embeddings, predictions. Their ids stay as
    tombstones, which are never selected, labelled or trained on again.
    """
    _delete(as_json, "example", ids, run=run, dry_run=dry_run, storage=storage)


@app.command("label")
def delete_label(
    ids: Ids,
    annotator: Annotated[
        str, typer.Option(help="Whose label, as exports name it: human/ann, openai/gpt-4o.")
    ],
    run: InRun = None,
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Delete the labels of examples by one annotator. The examples stay and are not labelled
    again.
    """
    _delete(as_json, "label", ids, run=run, annotator=annotator, dry_run=dry_run, storage=storage)


@app.command("person")
def delete_person(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name of the person, as tokens and labels have it."),
    ],
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Replace the name of a person by a pseudonym everywhere, and end that person's tokens. Labels
    and answers stay.
    """
    _delete(as_json, "person", [name], dry_run=dry_run, storage=storage)


@app.command("upload")
def delete_upload(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the file in the storage's uploads.")
    ],
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Delete an uploaded file. The runs that read it keep its rows, and are named."""
    _delete(as_json, "upload", [name], dry_run=dry_run, storage=storage)


@app.command("run")
def delete_run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the run.")],
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Delete a run: its folder with its adapters, its rows of the journal, and what caches and
    providers have of it. Refused while a controller drives it.
    """
    _delete(as_json, "run", [name], dry_run=dry_run, storage=storage)


def age_option(what: str) -> Any:
    """Return the option for the days after which `what` goes."""
    told = f"Days after which {what} go."
    return typer.Option(min=0.0, metavar="DAYS", show_default="for ever", help=told)


@app.command("older")
def delete_older(
    raw_answers_days: Annotated[float | None, age_option("raw answers of models")] = None,
    receipts_days: Annotated[float | None, age_option("receipts of answers")] = None,
    uploads_days: Annotated[float | None, age_option("uploads that no run names")] = None,
    runs_days: Annotated[float | None, age_option("whole runs that ended")] = None,
    dry_run: DryRun = False,
    storage: Storage = None,
) -> None:
    """Delete what is older than so many days, as `retention` of a service does by itself: raw
    answers of models of complete rounds, receipts, uploads that no run names, runs that ended.
    """
    from atgen_ray.config.service import RetentionConfig
    from atgen_ray.runs.retention import apply_retention
    from atgen_ray.store.existing import open_runs

    given = {
        "raw_answers_days": raw_answers_days,
        "receipts_days": receipts_days,
        "uploads_days": uploads_days,
        "runs_days": runs_days,
    }
    if all(days is None for days in given.values()):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"nothing is to be deleted, expected one of {options}")
    # The configuration of a service expects more than 0; a command may mean all.
    retention = RetentionConfig.model_construct(None, **given)
    place, url = find_place(storage)
    with open_runs(place, url) as journal:
        for line in apply_retention(journal, place, retention, dry_run):
            typer.echo(printable(f"{'would delete' if dry_run else 'deleted'} {line}"))


@app.command("list")
def list_deletions(storage: Storage = None, as_json: AsJson = False) -> None:
    """List the deletions of a storage; after a restore from a backup they are to be done again."""
    from atgen_ray.store.deletions import list_deletions as read
    from atgen_ray.store.existing import open_runs

    place, url = find_place(storage)
    with open_runs(place, url) as journal:
        records = read(journal)
    if as_json:
        typer.echo(json.dumps([record.certificate for record in records]))
        return
    for record in records:
        state = "finished" if record.finished else "cut short: the same command finishes it"
        what = ", ".join(f"{key} {value}" for key, value in record.target.items())
        typer.echo(printable(f"{record.id} {record.kind} ({what}): {state}"))
    if not records:
        typer.echo("no deletions yet")


@app.command("show")
def show_deletion(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the deletion.")],
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show the certificate of a deletion again."""
    from atgen_ray.store.deletions import find_deletion
    from atgen_ray.store.existing import open_runs

    place, url = find_place(storage)
    with open_runs(place, url) as journal:
        _show(find_deletion(journal, id).certificate, as_json)


def _delete(as_json: bool, kind: Any, names: list[str], **how: Any) -> None:
    _show(delete(kind, names, **how), as_json)


def _show(stored: dict[str, Any], as_json: bool) -> None:
    from atgen_ray.runs.deletion import Certificate

    if as_json:
        typer.echo(json.dumps(stored))
        return
    for line in Certificate.from_json(stored).lines():
        typer.echo(printable(line))
