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
        help="A run that the token may see, or news-* for those that begin so; give it again for "
        "more.",
        show_default="all",
    ),
]
Token = Annotated[str, typer.Argument(metavar="NAME", help="The token's public id, or its label.")]
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
    log_format: Annotated[
        str,
        typer.Option(
            help="text, or json: one line for each record, without secrets and texts of rows."
        ),
    ] = "text",
) -> None:
    """Serve the HTTP API until interrupted: the query endpoint, the runs, and an OpenAI-compatible
    model endpoint.

    Uses the Ray cluster at RAY_ADDRESS if that is set, else a private one on this machine.

    Example: atgen-ray serve --config serve_configs/local-cpu.yaml --storage ./atgen-runs
    """
    from atgen_ray.core.log_format import ask_for
    from atgen_ray.serving.server import serve_until_interrupted

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format[:40]!r}, expected text or json")
    ask_for("json" if log_format == "json" else "text")
    serve_until_interrupted(config, storage, host, port, typer.echo)


@app.command("create")
def create_token(
    role: Annotated[
        str,
        typer.Option(
            help="admin, or annotator, who may look at runs and label.",
            show_default="none: --scope says it",
        ),
    ] = "",
    label: Annotated[str, typer.Option(help="Whose it is, for `token list`.")] = "",
    expires: Annotated[
        str | None,
        typer.Option(help="When it ends, as 12h, 30d or 8w from now.", show_default="never"),
    ] = None,
    run: Runs = None,
    group: Groups = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may do: select, infer (ask models), runs (start and lead --run), "
            "annotate, admin; give it again for more.",
            show_default="as --role",
        ),
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(help="Requests a minute at most.", show_default="limits.minute_requests"),
    ] = None,
    tokens_per_day: Annotated[
        int | None,
        typer.Option(help="Tokens of models a day at most.", show_default="any number"),
    ] = None,
    storage: Storage = STORAGE,
) -> None:
    """Create a token and print it. It cannot be shown again: the database holds only its hash.

    Example: atgen-ray token create --scope runs --run 'news-*' --label pipeline --expires 90d
    """
    from atgen_ray.serving.server import open_tokens
    from atgen_ray.store.changes import audited

    seconds = None if expires is None else read_duration(expires)
    with open_tokens(storage) as tokens, audited(tokens.database, "create token") as said:
        token = tokens.create(
            role, label, seconds, run or None, group or (), scope or (), per_minute, tokens_per_day
        )
        said |= {"target": read_token_id(token), "role": role, "scopes": scope, "runs": run}
    typer.echo(token)


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
    columns = ["id", "role", "label", "created", "revoked", "expires", "runs", "groups", "used"]
    # Those that few tokens have are named only where one has them: terminals are narrow.
    seldom = ("scopes", "minute_requests", "day_tokens", "old_until")
    columns += [name for name in seldom if any(row[name] for row in rows)]
    print_table(columns, rows, "no tokens yet")


@app.command("usage")
def show_usage(
    month: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM", help="The month to show.", show_default="this month"),
    ] = None,
    storage: Storage = STORAGE,
    as_json: AsJson = False,
) -> None:
    """Show what each person used of the service's models by day: tokens, and dollars by its prices.

    Example: atgen-ray token usage --month 2026-11
    """
    from atgen_ray.serving.server import open_tokens
    from atgen_ray.store.usage import enter_trained, list_month

    with open_tokens(storage) as tokens:
        enter_trained(tokens.database, storage)
        rows = list_month(tokens.database, month)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    columns = ["day", "by", "model", "input_tokens", "output_tokens", "trained_tokens", "dollars"]
    print_table(columns, rows, "nothing was used in that month")


@app.command("revoke")
def revoke_token(id_: Token, storage: Storage = STORAGE) -> None:
    """Revoke a token: it is refused from now on, and its sessions and event streams end."""
    from atgen_ray.serving.server import open_tokens
    from atgen_ray.store.changes import audited

    with open_tokens(storage) as tokens, audited(tokens.database, "revoke token") as said:
        said["target"] = tokens.revoke(id_)
    typer.echo(f"token {id_} is revoked")


@app.command("rotate")
def rotate_token(
    id_: Token,
    grace: Annotated[
        str, typer.Option(help="How long the secret of today still works, as 12h or 7d; 0: not.")
    ] = "24h",
    storage: Storage = STORAGE,
) -> None:
    """Give a token a new secret and print it. It keeps id, role, runs and limits; sessions that the
    secret of today opened end with the grace time.

    Example: atgen-ray token rotate pipeline --grace 2h
    """
    from atgen_ray.serving.server import open_tokens
    from atgen_ray.store.changes import audited

    seconds = 0.0 if grace == "0" else read_duration(grace, "--grace")
    with open_tokens(storage) as tokens, audited(tokens.database, "rotate token") as said:
        token = tokens.rotate(id_, seconds)
        said |= {"target": read_token_id(token), "grace_seconds": seconds}
    typer.echo(token)


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
    life: Annotated[
        str,
        typer.Option(
            "--token-expires", help="When a token that the link makes ends, as 30d from its use."
        ),
    ] = "180d",
    url: Annotated[
        str, typer.Option(help="Address of the service, before the link.")
    ] = "http://127.0.0.1:8000",
    storage: Storage = STORAGE,
) -> None:
    """Make a link and print it. Whoever opens it gives a name and is let in."""
    from atgen_ray.serving.security.invites import DAY, read_id
    from atgen_ray.serving.server import open_invites
    from atgen_ray.store.changes import audited
    from atgen_ray.store.owner import name_user

    days = read_duration(expires) / DAY
    token_days = read_duration(life, "--token-expires") / DAY
    with open_invites(storage) as invites, audited(invites.database, "invite") as said:
        path = invites.create(
            name_user(), role, run or None, group or (), days, uses, label, token_days
        )
        said |= {"target": read_id(path), "role": role, "runs": run, "uses": uses}
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
    from atgen_ray.store.changes import audited

    with (
        open_invites(storage) as invites,
        audited(invites.database, "revoke invitation", target=id_),
    ):
        invites.revoke(id_)
    typer.echo(f"invitation {id_} is revoked")


UNITS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}  # seconds


def read_token_id(token: str) -> str:
    """Return the public id in a token."""
    return token.split("_")[1]


def read_duration(text: str, key: str = "--expires") -> float:
    """Return the seconds of a duration such as 12h, 30d or 8w; raises UserError."""
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isascii() or not number.isdigit() or not int(number):
        raise UserError(f"{key} is {text[:40]!r}, expected a number and h, d or w, as 30d")
    if len(number) > 4:
        raise UserError(f"{key} is {text[:40]!r}, expected at most 9999{unit}")
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
