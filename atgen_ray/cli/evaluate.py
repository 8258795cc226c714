"""`atgen-ray evaluate`: how good is a model on a pool, by as few labels as asked for."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from atgen_ray.api.measuring import (
    add_rivals,
    configure_measurement,
    open_model,
    read_measured,
)
from atgen_ray.api.runs import Run
from atgen_ray.cli.driving import STOPPED, drive
from atgen_ray.cli.options import AsJson, Overrides, Storage, console
from atgen_ray.core.errors import UserError, printable


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN[:ROUND]|CONFIG|PRESET",
            help="A run, whose last adapter is measured, or that of a round; or a configuration, "
            "whose untuned model is measured.",
        ),
    ],
    overrides: Overrides = None,
    labels: Annotated[
        int, typer.Option(min=8, metavar="NUMBER", help="Examples of the pool to have labelled.")
    ] = 100,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Compare with another model on the same examples: RUN, RUN:ROUND, untuned, or "
            "the folder of an adapter; may be given again.",
        ),
    ] = None,
    rivals: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Score rivals of a finished run's model on its own test set instead, beside those "
            "that it has: knn, few_shot, prompt, with commas between; no label is bought.",
        ),
    ] = None,
    storage: Storage = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name that the work is kept under.", show_default="MODEL-evaluate-NUMBER"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the pool of its configuration, which needs no answers: a sample is
    labelled by the annotator there, and gives unbiased scores with intervals.

    Examples that the runs which are measured had labelled are never drawn. The same command again
    resumes it, and pays for no label twice.

    Example: atgen-ray evaluate demo --labels 100 --against untuned
    atgen-ray evaluate demo --rivals knn,few_shot
    """
    source = open_model(model, storage)
    if rivals is not None:
        return _score_rivals(source, model, rivals, overrides or (), storage, as_json)
    round = None
    if isinstance(source, Run):
        _, colon, ending = model.partition(":")
        if colon and not ending.isdigit():
            raise UserError(f"the model is '{model}', expected RUN or RUN:ROUND, as demo:3")
        round = int(ending) if ending else None
    config = configure_measurement(
        source,
        labels,
        against or (),
        round=round,
        overrides=overrides or (),
        storage=storage,
        name=name,
    )
    end = drive(config, "evaluate", as_json)
    measured = read_measured(config) if end.status != "stopped" else []
    if as_json:
        said = {"type": "end", "status": end.status, "message": end.message, "measured": measured}
        typer.echo(json.dumps(said))
    elif measured:
        console.print(tabulate_measured(measured))
    else:
        typer.echo(f"Stopped ({end.message}). The same command goes on from there.")
    if end.status == "stopped":
        raise typer.Exit(STOPPED)


def _score_rivals(
    source: Any,
    model: str,
    names: str,
    overrides: Sequence[str],
    storage: str | None,
    as_json: bool,
) -> None:
    """Resume a run with further rivals, and show how its tuned model stands beside them all."""
    from atgen_ray.runs.console import rivals_table

    if not isinstance(source, Run) or ":" in model:
        raise UserError(f"--rivals is given beside '{model}', expected the name of a run")
    config = add_rivals(source, names.split(","), overrides, storage)
    end = drive(config, "run", as_json)
    found = source.show()["rivalry"]
    if as_json:
        said = {"type": "end", "status": end.status, "message": end.message, "rivalry": found}
        typer.echo(json.dumps(said))
    elif end.status == "stopped":
        typer.echo(f"Stopped ({end.message}). The same command goes on from there.")
    elif found:
        console.print(rivals_table(found, console.width))
        typer.echo(printable(found["said"]))
    if end.status == "stopped":
        raise typer.Exit(STOPPED)


def tabulate_measured(measured: list[dict[str, Any]]) -> Table:
    """Return a row for each model and metric: the estimate over the pool with its interval, and by
    how much it is above that of the first model.
    """
    compared = len(measured) > 1
    titles = ["model", "metric", "score on the pool", "labels"]
    titles += [f"above {measured[0]['model']}"] if compared else []
    table = Table(*titles, box=None, pad_edge=False)
    for entry in measured:
        differences = entry.get("differences", {})
        for name, value in entry["metrics"].items():
            cells = [entry["model"], name, _show(value), str(value["count"])]
            cells += [_show(differences[name], sign="+") if name in differences else ""]
            table.add_row(*cells[: len(titles)])
    return table


def _show(value: dict[str, Any], sign: str = "") -> str:
    if value["low"] is None or value["high"] is None:  # JSON has no infinity
        return f"{value['mean']:{sign}.3f}"
    return f"{value['mean']:{sign}.3f} [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"
