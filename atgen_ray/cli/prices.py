"""Commands `atgen-ray prices`: the prices of paid models."""

import json
from typing import Annotated

import typer

from atgen_ray.cli.options import AsJson
from atgen_ray.core.errors import printable

WIDTH = 110  # columns that the table needs

app = typer.Typer(no_args_is_help=True, help="Prices of the tokens of paid models.")


@app.command("list")
def list_prices(
    provider: Annotated[str | None, typer.Option(help="One provider, as openai.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models whose prices are known, in dollars for a million tokens.

    Example: atgen-ray prices list --provider anthropic
    """
    from rich.console import Console
    from rich.table import Table

    from atgen_ray.config.price_update import find_provider
    from atgen_ray.config.prices import read_prices

    table = find_provider(provider, read_prices())
    if as_json:
        typer.echo(json.dumps({name: each.model_dump() for name, each in table.items()}))
        return
    screen = Console()
    screen.width = max(WIDTH, screen.width)
    for name, section in table.items():
        typer.echo(printable(f"{name}: read on {section.date} from {section.source}"))
        rows = Table(box=None, pad_edge=False)
        for column in ("model", "input", "output", "cached", "written", "batch saves", "ends"):
            rows.add_column(column, no_wrap=True)
        for model, price in section.models.items():
            saved = price.batch_discount
            dollars = (price.input, price.output, price.cached, price.written)
            rows.add_row(
                model,
                *("" if each is None else f"{each:g}" for each in dollars),
                f"{section.batch_discount if saved is None else saved:.0%}",
                price.retires or "",
            )
        screen.print(rows)


@app.command("update")
def update(
    location: Annotated[
        str,
        typer.Option("--from", help="A file or URL in the format that LiteLLM publishes."),
    ],
) -> None:
    """Renew the price table from LiteLLM's file. It is written to ATGEN_PRICES, or else to your
    configuration folder, and used from then on.

    Example: atgen-ray prices update
    --from https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json
    """
    from atgen_ray.config.price_update import update_prices

    path, table = update_prices(location)
    counts = ", ".join(f"{len(section.models)} of {name}" for name, section in table.items())
    typer.echo(printable(f"{path}: prices of models: {counts}"))
