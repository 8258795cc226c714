"""How a command drives a run to its end."""

import sys
from contextlib import nullcontext, redirect_stdout
from typing import Any

import typer

from atgen_ray.api.running import follow
from atgen_ray.cli.options import console
from atgen_ray.core.errors import RunFailedError, printable

STOPPED = 3  # exit status


def drive(config: Any, goal: Any, as_json: bool) -> Any:
    """Drive a run to its end and return it; exit with status 1 or 2 if it fails."""
    from atgen_ray.runs.console import choose_screen

    screen = choose_screen(as_json, console)
    if not as_json:
        typer.echo(f"{goal} {config.name} in {config.storage}")
    try:
        # Ray prints text that is no JSON when a worker dies.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            return follow(config, goal, screen)
    except RunFailedError as failure:
        typer.echo(printable(str(failure)), err=True)
        typer.echo(
            f"Run '{config.name}' failed; what it had committed is safe. The same command goes on "
            f"from there.",
            err=True,
        )
        raise typer.Exit(1) from None
