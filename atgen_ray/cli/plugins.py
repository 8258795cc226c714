"""`atgen-ray plugins`: what installed packages add."""

import json
from typing import Any

import typer

from atgen_ray.cli.options import AsJson
from atgen_ray.core.errors import printable


def plugins(as_json: AsJson = False) -> None:
    """List strategies, metrics, annotators, engines and checks that installed packages add.

    One that cannot be used is listed with the reason.
    """
    from atgen_ray.annotation import ANNOTATORS
    from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, BACKENDS, CHECKS, ENGINE_PLUGINS, PLUGIN
    from atgen_ray.core.plugins import Registry
    from atgen_ray.evaluation import METRICS
    from atgen_ray.selection import STRATEGIES

    registries: list[tuple[str, int, Registry[Any]]] = [
        ("strategies", len(STRATEGIES.builtin), STRATEGIES),
        ("metrics", len(METRICS.builtin), METRICS),
        ("annotators", len(ANNOTATORS.keys() - {PLUGIN}), ANNOTATOR_PLUGINS),
        ("engines", len(set(BACKENDS) - {"auto"}), ENGINE_PLUGINS),
        ("checks", 0, CHECKS),
    ]
    builtin = {name: count for name, count, _ in registries}
    found = [
        {
            "group": plugin.group,
            "name": plugin.name,
            "package": plugin.package,
            "version": plugin.version,
            "target": plugin.target,
            "problem": problem,
        }
        for _, _, registry in registries
        for plugin, problem in registry.list_plugins()
    ]
    if as_json:
        typer.echo(json.dumps({"builtin": builtin, "plugins": found}))
        return
    typer.echo("built in: " + ", ".join(f"{count} {name}" for name, count in builtin.items()))
    for row in found:
        typer.echo("{group}: {name} ({package} {version}, {target})".format(**row))
        if row["problem"]:
            typer.echo(printable(f"    cannot be used: {row['problem']}"))
    if not found:
        typer.echo("no installed package adds anything")
