"""Commands `atgen-ray config`: the reference of all settings."""

import json

import typer

from atgen_ray.cli.options import AsJson

app = typer.Typer(no_args_is_help=True, help="The configuration reference.")


@app.command("explain")
def explain(as_json: AsJson = False) -> None:
    """Explain every setting with type, default and meaning, and every strategy with its
    parameters.
    """
    from atgen_ray.config.loading import explain_config, explain_strategies, list_presets

    settings = list(explain_config())
    strategies = list(explain_strategies())
    presets = list_presets()
    if as_json:
        typer.echo(json.dumps({"settings": settings, "strategies": strategies, "presets": presets}))
        return
    for row in settings:
        typer.echo("{key}: {type} = {default}\n    {description}".format(**row))
    typer.echo("\nStrategies (selection.strategy) and their selection.parameters:")
    for strategy in strategies:
        typer.echo("{name}\n    {description}".format(**strategy))
        for row in strategy["parameters"]:
            typer.echo("    {key}: {type} = {default}\n        {description}".format(**row))
    typer.echo(f"\nPresets: {', '.join(presets)}")
