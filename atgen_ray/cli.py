"""The command line.

Exit status: 0 finished, 2 a mistake in the input, 3 stopped with everything saved, 1 anything else.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from atgen_ray import __version__
from atgen_ray.errors import UserError

STORAGE = "./atgen-runs"
STOPPED = 3

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Active learning for text generation: pick the examples worth labelling, have them labelled, fine-tune a LoRA "
    "adapter, evaluate it, and go round again.",
)
runs_app = typer.Typer(no_args_is_help=True, help="List, show, stop and export runs.")
config_app = typer.Typer(no_args_is_help=True, help="The configuration reference.")
app.add_typer(runs_app, name="runs")
app.add_typer(config_app, name="config")
console = Console()

Source = Annotated[str, typer.Argument(metavar="CONFIG|PRESET", help="A YAML file, or the name of a preset.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change, as stopping.rounds=3.")
]
Storage = Annotated[str | None, typer.Option(help="Folder or URL that holds the runs.", show_default=STORAGE)]
RunName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def run(
    source: Source,
    overrides: Overrides = None,
    storage: Storage = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; the same name again resumes it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start a run, or resume it: kill it anywhere, give the same command again, and it goes on.

    Uses the Ray cluster at RAY_ADDRESS where that is set, else a private one on this machine.

    Example: atgen-ray run demo selection.strategy=random --name demo-random
    """
    from atgen_ray.console import choose_screen
    from atgen_ray.driver import run_to_end

    config = _load(source, overrides, storage, name)
    screen = choose_screen(as_json, console)
    if not as_json:
        console.print(f"run {config.name} in {config.storage}", highlight=False)
    try:
        end = run_to_end(config, screen)
    finally:
        screen.close()
    if end.status == "failed":
        if end.mistake:
            raise UserError(end.message)
        typer.echo(end.message, err=True)
        typer.echo(
            f"Run '{config.name}' failed; what it had committed is safe. The same command goes on from there.", err=True
        )
        raise typer.Exit(1)
    _show_end(config, end.status, end.message, as_json)
    if end.status == "stopped":
        raise typer.Exit(STOPPED)


@app.command()
def plan(source: Source, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """The dry run: rows, tokens, dollars and device minutes. Costs nothing and contacts no provider."""
    from atgen_ray.plan import plan_run

    estimate = plan_run(_load(source, overrides, storage, None))
    if as_json:
        typer.echo(json.dumps(estimate))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in estimate.items():
        table.add_row(key.replace("_", " "), "unknown" if value is None else str(value))
    console.print(table)


@app.command()
def report(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="One run, or several to compare.")],
    output: Annotated[Path, typer.Option(help="The HTML file to write; a PNG of the curve is put beside it.")] = Path(
        "report.html"
    ),
    storage: Storage = None,
) -> None:
    """Write one self-contained HTML report of a run, or of several compared."""
    from atgen_ray.reporting.publication import compare_runs

    path = compare_runs(names, storage or STORAGE, _database_url(), output)
    console.print(f"report: {path}", highlight=False, soft_wrap=True)


@runs_app.command("list")
def list_runs(storage: Storage = None, as_json: AsJson = False) -> None:
    """All runs of a storage with their status."""
    from atgen_ray.runs import list_runs

    rows = list_runs(storage or STORAGE, _database_url())
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("name", "status", "round", "labels", "dollars", "updated", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("name", "status", "round", "labels", "dollars", "updated")))
    console.print(table if rows else "no runs yet")


@runs_app.command("show")
def show_run(name: RunName, storage: Storage = None, as_json: AsJson = False) -> None:
    """One run: status, learning curve, dead letters, last events."""
    from atgen_ray.console import curve_table
    from atgen_ray.runs import show_run

    view = show_run(name, storage or STORAGE, _database_url())
    if as_json:
        typer.echo(json.dumps(view))
        return
    console.print(f"run {name}: {view['status']}{': ' + view['message'] if view['message'] else ''}", highlight=False)
    console.print(curve_table(view["metrics"], console.width))
    for letter in view["dead_letters"]:
        console.print(
            f"dead letter {letter['id']} ({letter['step']}): {letter['reason']}", highlight=False, markup=False
        )


@runs_app.command("stop")
def stop_run(name: RunName, storage: Storage = None) -> None:
    """Ask the controller of a run on the cluster at RAY_ADDRESS, or on this machine, to stop; all is saved."""
    from atgen_ray.runs import stop_run

    console.print(stop_run(name, storage or STORAGE, _database_url()), highlight=False)


@runs_app.command("export")
def export_run(
    name: RunName,
    format: Annotated[str, typer.Option(help="jsonl, parquet or csv.")] = "jsonl",
    output: Annotated[Path | None, typer.Option(help="File to write.", show_default="NAME.FORMAT")] = None,
    storage: Storage = None,
) -> None:
    """Write the labelled set of a run: id, input, text, annotator, dollars, round."""
    from atgen_ray.runs import export_labels

    count, path = export_labels(name, storage or STORAGE, _database_url(), format, output)
    console.print(f"{count} labels: {path}", highlight=False, soft_wrap=True)


@config_app.command("explain")
def explain(as_json: AsJson = False) -> None:
    """Every setting with its type, default and meaning, and every strategy with its parameters."""
    from atgen_ray.config_source import explain_config, list_presets
    from atgen_ray.selection import STRATEGIES

    settings = [dict(zip(("key", "type", "default", "description"), row, strict=True)) for row in explain_config()]
    if as_json:
        typer.echo(json.dumps(settings))
        return
    for row in settings:
        typer.echo(f"{row['key']}: {row['type']} = {row['default']}\n    {row['description']}")
    typer.echo("\nStrategies (selection.strategy) and their selection.parameters:")
    for name, strategy in sorted(STRATEGIES.items()):
        typer.echo(f"{name}\n    {' '.join((strategy.parameters.__doc__ or '').split())}")
        for parameter, field in strategy.parameters.model_fields.items():
            typer.echo(f"    {parameter} = {field.default}: {field.description}")
    typer.echo(f"\nPresets: {', '.join(list_presets())}")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"atgen-ray {__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point: a mistake in the input is one clear line, without a traceback, and status 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _load(source: str, overrides: list[str] | None, storage: str | None, name: str | None) -> Any:
    from atgen_ray.config_source import load_config

    return load_config(source, overrides or [], storage=storage, name=name)


def _database_url() -> Any:
    from atgen_ray.config_source import database_url_from_environment

    return database_url_from_environment()


def _show_end(config: Any, status: str, message: str, as_json: bool) -> None:
    from atgen_ray.console import curve_table
    from atgen_ray.storage import RunFolder

    folder = RunFolder(config.storage, config.name)
    rows = folder.read_json("metrics.json") if folder.exists("metrics.json") else []
    report = folder.path("report.html")
    if as_json:
        typer.echo(json.dumps({"type": "end", "status": status, "message": message, "metrics": rows, "report": report}))
        return
    if rows:
        console.print(curve_table(rows, console.width))
    if status == "stopped":
        console.print(f"Stopped ({message}). All committed work is saved; the same command goes on from there.")
    else:
        console.print(f"{status}: {message}", highlight=False)
        console.print(f"report: {report}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
