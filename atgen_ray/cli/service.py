"""Commands `atgen-ray serve` and `atgen-ray token`."""

import json
from typing import Annotated

import typer
from rich.table import Table

from atgen_ray.cli.options import STORAGE, AsJson, console

app = typer.Typer(no_args_is_help=True, help="Tokens that let callers into the service.")
Storage = Annotated[str, typer.Option(help="Folder or URL that holds the runs.")]


def serve(
    config: Annotated[
        str | None, typer.Option(help="A file of serve_configs; without one, no model is served.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL that holds the runs.", show_default=f"as in --config, or {STORAGE}"
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on.", show_default="8000")
    ] = None,
) -> None:
    """Serve the HTTP API until interrupted: the query endpoint, the runs, and an OpenAI-compatible
    model endpoint.

    Uses the Ray cluster at RAY_ADDRESS if that is set, else a private one on this machine.

    Example: atgen-ray serve --config serve_configs/local-cpu.yaml --storage ./atgen-runs
    """
    from atgen_ray.serving.server import serve_until_interrupted

    serve_until_interrupted(config, storage, host, port, typer.echo)


@app.command("create")
def create_token(
    role: Annotated[str, typer.Option(help="admin, or annotator, who may look at runs and label.")],
    label: Annotated[str, typer.Option(help="Whose it is, for `token list`.")] = "",
    storage: Storage = STORAGE,
) -> None:
    """Create a token and print it. It cannot be shown again: the database holds only its hash."""
    from atgen_ray.serving.server import open_tokens

    with open_tokens(storage) as tokens:
        typer.echo(tokens.create(role, label))


@app.command("list")
def list_tokens(
    storage: Storage = STORAGE,
    as_json: AsJson = False,
) -> None:
    """List all tokens by their public ids; the tokens themselves are never shown."""
    from atgen_ray.serving.server import open_tokens

    with open_tokens(storage) as tokens:
        rows = tokens.list()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("id", "role", "label", "created", "revoked", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("id", "role", "label", "created", "revoked")))
    console.print(table if rows else "no tokens yet")


@app.command("revoke")
def revoke_token(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The token's public id.")],
    storage: Storage = STORAGE,
) -> None:
    """Revoke a token: it is refused from now on."""
    from atgen_ray.serving.server import open_tokens

    with open_tokens(storage) as tokens:
        tokens.revoke(id_)
    typer.echo(f"token {id_} is revoked")
