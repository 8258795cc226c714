"""Commands `atgen-ray config`: the reference of all settings."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from atgen_ray.cli.options import AsJson
from atgen_ray.core.errors import UserError

app = typer.Typer(no_args_is_help=True, help="The configuration reference.")


@app.command("explain")
def explain(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="A section or key, as training or selection.strategy."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A strategy after selection.strategy, or a type after annotator.",
        ),
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="Words that the key or its description must hold.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every setting and every strategy.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explain settings: type, default and meaning. Without arguments, those that most runs set.

    Examples: atgen-ray config explain training; atgen-ray config explain selection.strategy huds;
    atgen-ray config explain --search "learning rate"
    """
    from atgen_ray.config import reference
    from atgen_ray.config.loading import list_presets

    if (key is not None) + (search is not None) + everything > 1:
        raise UserError("KEY, --search and --all exclude each other, expected one of them")
    if search is not None and not search.split():
        raise UserError("--search is empty, expected words, as 'learning rate'")
    settings: Iterable[dict[str, str]] = ()
    strategies: list[dict[str, Any]] = []
    names = reference.list_names(key or "")
    if key in reference.STRATEGY_KEYS and name is not None:
        strategies = [reference.describe_strategy(name)]
    elif key is not None:
        settings = reference.explain_key(key, name)
    elif search is not None:
        settings, strategies = reference.search_settings(search.split())
        if not (settings or strategies):
            raise UserError(f"--search is {search[:80]!r}, which no setting and no strategy holds")
    elif everything or as_json:
        settings, strategies = reference.explain_config(), list(reference.explain_strategies())
    else:
        _print_everyday()
        return
    if as_json:
        presets = {"presets": list_presets()} if key is None and search is None else {}
        typer.echo(json.dumps({"settings": list(settings), "strategies": strategies} | presets))
        return
    for row in settings:
        typer.echo("{key}: {type} = {default}\n    {description}".format(**row))
    if names and name is None:
        typer.echo("\nNames:")
        for each, title in names.items():
            typer.echo(f"    {each}: {title}")
        if key in reference.STRATEGY_KEYS:
            typer.echo(f"\nOne of them with its parameters: atgen-ray config explain {key} NAME")
    if strategies and name is None:
        typer.echo("\nStrategies (selection.strategy) and their selection.parameters:")
    for strategy in strategies:
        _print_strategy(strategy)
    if everything:
        typer.echo(f"\nPresets: {', '.join(list_presets())}")


def _print_everyday() -> None:
    from atgen_ray.config import reference
    from atgen_ray.config.loading import list_presets

    for group, rows in reference.explain_everyday():
        typer.echo(f"{group}")
        for row in rows:
            typer.echo("    {key}: {type} = {default}\n        {description}".format(**row))
    total = sum(1 for _ in reference.explain_config())
    typer.echo(f"\nPresets: {', '.join(list_presets())}")
    typer.echo(
        f"These are the settings that most runs set. All {total}: atgen-ray config explain --all. "
        "One section: atgen-ray config explain training. Strategies: atgen-ray config explain "
        "selection.strategy. By words: atgen-ray config explain --search WORDS"
    )


def _print_strategy(strategy: dict[str, Any]) -> None:
    typer.echo(
        "{name}\n    {title}. {why}\n    {description}\n    Score: {score}".format(**strategy)
    )
    for part in strategy["parts"]:
        title = "any other" if part["name"] == "*" else part["title"]
        typer.echo(f"    Part {title}: {part['meaning']}")
    for row in strategy["parameters"]:
        typer.echo("    {key}: {type} = {default}\n        {description}".format(**row))
