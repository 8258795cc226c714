"""Commands `atgen-ray serve`, `atgen-ray token` and `atgen-ray invite`."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from atgen_ray.cli.options import STORAGE, AsJson, console
from atgen_ray.core.errors import UserError, printable

app = typer.Typer(no_args_is_help=True, help="Tokens that let callers into the service.")
invitations = typer.Typer(no_args_is_help=True, help="Links with which people let themselves in.")
Storage = Annotated[str, typer.Option(help="Folder or URL that holds the runs.")]
Runs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A run that an annotator may see; give it again for more.",
        show_default="all",
    ),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A group of the person; give it again for more."),
]


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
    expires: Annotated[
        str | None,
        typer.Option(help="When it ends, as 12h, 30d or 8w from now.", show_default="never"),
    ] = None,
    run: Runs = None,
    group: Groups = None,
    storage: Storage = STORAGE,
) -> None:
    """Create a token and print it. It cannot be shown again: the database holds only its hash."""
    from atgen_ray.serving.server import open_tokens

    seconds = None if expires is None else read_duration(expires)
    with open_tokens(storage) as tokens:
        typer.echo(tokens.create(role, label, seconds, run or None, group or ()))


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
    columns = ("id", "role", "label", "created", "revoked", "expires", "runs", "groups", "used")
    print_table(columns, rows, "no tokens yet")


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


@invitations.command("create")
def create_invite(
    role: Annotated[str, typer.Option(help="admin or annotator.")] = "annotator",
    run: Runs = None,
    group: Groups = None,
    expires: Annotated[str, typer.Option(help="When the link ends, as 12h, 7d or 4w.")] = "7d",
    uses: Annotated[int, typer.Option(help="How many people may use it.")] = 1,
    label: Annotated[
        str | None,
        typer.Option(help="The person for whom it is.", show_default="whoever has the link"),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Address of the service, before the link.")
    ] = "http://127.0.0.1:8000",
    storage: Storage = STORAGE,
) -> None:
    """Make a link and print it. Whoever opens it gives a name and is let in."""
    from atgen_ray.serving.security.invites import DAY
    from atgen_ray.serving.server import open_invites
    from atgen_ray.store.owner import name_user

    days = read_duration(expires) / DAY
    with open_invites(storage) as invites:
        path = invites.create(name_user(), role, run or None, group or (), days, uses, label)
    typer.echo(f"{url.rstrip('/')}{path}")


@invitations.command("list")
def list_invites(storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """List invitations, the newest first; their links are never shown again."""
    from atgen_ray.serving.server import open_invites

    with open_invites(storage) as invites:
        rows = invites.list()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    columns = ("id", "role", "person", "runs", "groups", "uses", "max_uses", "expires", "open")
    print_table(columns, rows, "no invitations yet")


@invitations.command("revoke")
def revoke_invite(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The invitation's id.")],
    storage: Storage = STORAGE,
) -> None:
    """Make a link invalid; whoever came in by it stays."""
    from atgen_ray.serving.server import open_invites

    with open_invites(storage) as invites:
        invites.revoke(id_)
    typer.echo(f"invitation {id_} is revoked")


UNITS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}  # seconds


def read_duration(text: str) -> float:
    """Return the seconds of a duration such as 12h, 30d or 8w; raises UserError."""
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isascii() or not number.isdigit() or not int(number):
        raise UserError(f"--expires is {text[:40]!r}, expected a number and h, d or w, as 30d")
    if len(number) > 4:
        raise UserError(f"--expires is {text[:40]!r}, expected at most 9999{unit}")
    return int(number) * UNITS[unit]


def print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
    """Print `columns` of `rows`, lists by their members; `nothing` where there are none."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(printable(_tell(row[key])) for key in columns))
    console.print(table if rows else nothing)


def _tell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)
