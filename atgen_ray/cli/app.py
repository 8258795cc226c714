"""Commands of the command line.

Exit status: 0 finished, 2 a mistake in the input, 3 stopped with everything saved, 1 anything else.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from atgen_ray import __version__
from atgen_ray.api.comparing import report as write_report
from atgen_ray.api.configuration import load_config
from atgen_ray.api.running import plan as make_plan
from atgen_ray.api.selecting import configure_selection
from atgen_ray.cli import config as reference
from atgen_ray.cli import prices, runs, service
from atgen_ray.cli.audit import audit
from atgen_ray.cli.delete import app as deletions
from atgen_ray.cli.doctor import doctor
from atgen_ray.cli.driving import STOPPED, drive
from atgen_ray.cli.evaluate import evaluate
from atgen_ray.cli.options import AsJson, ForkFrom, Overrides, Source, Storage, console
from atgen_ray.cli.plugins import plugins
from atgen_ray.core.errors import UserError, printable
from atgen_ray.core.private_files import use_private_files
from atgen_ray.store.channel import CHANNEL

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Active learning for text generation: pick the examples worth labelling, have them "
    "labelled, fine-tune a LoRA "
    "adapter, evaluate it, and go round again.",
)
app.add_typer(runs.app, name="runs")
app.add_typer(reference.app, name="config")
app.add_typer(prices.app, name="prices")
app.add_typer(deletions, name="delete")
app.add_typer(service.app, name="token")
app.add_typer(service.invitations, name="invite")
app.command()(service.serve)
app.command()(plugins)
app.command()(doctor)
app.command()(audit)
app.command()(evaluate)


@app.command()
def run(
    source: Source,
    overrides: Overrides = None,
    storage: Storage = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; the same name again resumes it.")
    ] = None,
    fork_from: ForkFrom = None,
    as_json: AsJson = False,
) -> None:
    """Start a run, or resume it: after any interruption the same command continues it.

    Uses the Ray cluster at RAY_ADDRESS if that is set, else a private one on this machine.

    Example: atgen-ray run demo selection.strategy=random --name demo-random
    """
    config = load_config(
        source, overrides=overrides or (), storage=storage, name=name, fork_from=fork_from
    )
    end = drive(config, "run", as_json)
    _show_end(config, end.status, end.message, as_json)
    if end.status == "stopped":
        raise typer.Exit(STOPPED)


@app.command()
def select(
    source: Source,
    count: Annotated[int, typer.Option(min=1, help="Examples to select.")],
    output: Annotated[Path, typer.Option(help="JSON Lines file to write, best example first.")],
    overrides: Overrides = None,
    storage: Storage = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name that the work is kept under.", show_default="NAME-select-COUNT"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Select once, with no labels and no training (experimental design), and write what to label.

    Each line holds rank, id, row in the source, input, score and the parts of the score. The pool
    needs no answers. The same command again resumes it.

    Example: atgen-ray select my-task.yaml --count 100 --output picks.jsonl
    selection.strategy=facility_location
    """
    from atgen_ray.core.locations import check_output
    from atgen_ray.runs.queries import export_selection, find_bound

    check_output(output)
    config = configure_selection(source, count, overrides or (), storage, name)
    end = drive(config, "select", as_json)
    if end.status == "stopped":
        _show_end(config, end.status, end.message, as_json)
        raise typer.Exit(STOPPED)
    written, pool = export_selection(config.name, config.storage, output)
    bound = find_bound(config.name, config.storage)
    if as_json:
        found = {
            "type": "end",
            "status": end.status,
            "message": end.message,
            "selected": written,
            "pool": pool,
            "output": str(output),
            "bound": None if bound is None else asdict(bound),
        }
        typer.echo(json.dumps(found))
    else:
        if bound is not None:
            typer.echo(f"coverage of the pool: {bound}")
        typer.echo(f"{written} of {pool} examples selected: {output}")


@app.command()
def submit(
    source: Source,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://HEAD:8265.")],
    overrides: Overrides = None,
    storage: Storage = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; the same name again resumes it.")
    ] = None,
    fork_from: ForkFrom = None,
) -> None:
    """Submit a run as a Ray job with this folder's files, and show its progress. The run continues
    when this command ends.

    Example: atgen-ray submit my-task.yaml --address http://head:8265 --storage /shared/runs
    """
    # A mistake is found here, not on the cluster.
    config = load_config(
        source, overrides=overrides or (), storage=storage, name=name, fork_from=fork_from
    )
    from atgen_ray.ray_runtime.jobs import submit_run

    arguments = [source, *(overrides or []), "--name", config.name] + (
        ["--storage", storage] if storage else []
    )
    arguments += ["--from", fork_from] if fork_from else []
    status = submit_run(arguments, address, typer.echo)
    if status != "SUCCEEDED":
        typer.echo(f"job {status.lower()}", err=True)
        raise typer.Exit(STOPPED if status == "STOPPED" else 1)


@app.command()
def plan(
    source: Source, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False
) -> None:
    """Estimate a run: rows, tokens, dollars and device minutes, and every problem that would end
    it.

    Costs nothing and contacts no provider. Exit status 2 if there is a problem.
    """
    estimate = make_plan(
        source,
        storage=storage,
        overrides=overrides or (),
        on_waiting=lambda waiting: typer.echo(waiting, err=True) if waiting else None,
    )
    if as_json:
        typer.echo(json.dumps(estimate))
    else:
        from atgen_ray.runs.console import plan_lines, plan_table

        console.print(plan_table(estimate))
        for line in plan_lines(estimate):
            typer.echo(printable(line))
        for warning in estimate.get("warnings", []):
            typer.echo(f"warning: {warning}", err=True)
    estimate.check()


@app.command()
def report(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="One run, or several to compare.")
    ],
    output: Annotated[
        Path, typer.Option(help="The HTML file to write; a PNG of the curve is put beside it.")
    ] = Path("report.html"),
    storage: Storage = None,
) -> None:
    """Write one self-contained HTML report of a run, or of several compared."""
    path = write_report(names, output, storage=storage)
    typer.echo(f"report: {path}")


@app.command()
def bench(
    suite: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file with tasks, models and strategies.")
    ],
    overrides: Overrides = None,
    storage: Storage = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for tables and pictures.", show_default="STORAGE/bench/NAME"),
    ] = None,
    only_results: Annotated[
        bool, typer.Option("--only-results", help="Start no run; write what is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a suite of strategies x seeds x orders x tasks x models, and write comparisons with
    intervals.

    After any interruption the same command continues the suite and writes the results anew.

    Example: atgen-ray bench benchmarks/suites/smoke.yaml --output benchmarks/results/smoke
    """
    from atgen_ray.bench.command import run_bench

    raise typer.Exit(
        run_bench(suite, overrides or [], storage, output, only_results, as_json, console)
    )


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"atgen-ray {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. A mistake in the input becomes one line on standard error, without a
    traceback, and exit status 2.
    """
    way = CHANNEL.set("cli")
    try:
        use_private_files()
        app(prog_name="atgen-ray")
    except UserError as error:
        for line in str(error).splitlines():
            typer.echo(printable(f"error: {line}"), err=True)
        sys.exit(2)
    finally:
        CHANNEL.reset(way)


def _show_end(config: Any, status: str, message: str, as_json: bool) -> None:
    from atgen_ray.runs.console import curve_table
    from atgen_ray.store.layout import RIVALS
    from atgen_ray.store.run_folder import RunFolder

    folder = RunFolder(config.storage, config.name)
    rows = folder.read_json("metrics.json") if folder.exists("metrics.json") else []
    report = folder.path("report.html")
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "type": "end",
                    "status": status,
                    "message": message,
                    "metrics": rows,
                    "report": report,
                }
            )
        )
        return
    if rows:
        console.print(curve_table(rows, console.width))
    if folder.exists(RIVALS) and (said := folder.read_json(RIVALS)["said"]):
        typer.echo(printable(said))
    if status == "stopped":
        typer.echo(
            f"Stopped ({message}). All committed work is saved; the same command goes on "
            f"from there."
        )
    else:
        typer.echo(f"{status}: {message}")
        typer.echo(f"report: {report}")
