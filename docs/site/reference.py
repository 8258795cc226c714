"""Writes the reference pages from the code: settings, strategies, commands, HTTP and Python.

Each page is made from what the program itself uses (the pydantic schemas, the Typer application,
the OpenAPI description), so it cannot say something else than the program does.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

import atgen_ray
from atgen_ray.cli.app import app
from atgen_ray.config import ServiceConfig
from atgen_ray.config.loading import list_presets
from atgen_ray.config.reference import explain_config, explain_everyday, explain_strategies
from atgen_ray.core.schema import list_settings
from atgen_ray.evaluation import METRICS
from atgen_ray.serving.application import create_api, parse_service

MADE = "*This page is made from the code when the documentation is built.*"
# What an author of a strategy, a metric, an annotator or an engine works with, and what a reader of
# runs needs. Modules that nothing outside the package should import are left to the source.
MODULES = {
    "Records that the steps pass to each other": "atgen_ray.core.records",
    "Query strategies": "atgen_ray.selection.strategy",
    "Selecting a batch": "atgen_ray.selection.batch",
    "Tests for authors of plug-ins": "atgen_ray.testing",
    "What a metric sees": "atgen_ray.evaluation.metric",
    "Metrics": "atgen_ray.evaluation.registry",
    "What an annotator works with": "atgen_ray.annotation.context",
    "Providers of annotating models": "atgen_ray.annotation.providers.base",
    "Engines": "atgen_ray.engines.base",
    "The journal": "atgen_ray.store.journal",
    "Who may write a run": "atgen_ray.store.leases",
    "Events of a run": "atgen_ray.store.events",
    "The ledger": "atgen_ray.store.ledger",
    "A run's folder": "atgen_ray.store.run_folder",
    "Errors": "atgen_ray.core.errors",
}


def write_reference(folder: Path) -> None:
    """Writes every page of the reference to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "config": describe_settings(),
        "strategies": describe_strategies(),
        "cli": describe_commands(),
        "http": describe_http(),
        "python": describe_modules(),
    }
    for name, lines in pages.items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def describe_settings() -> Iterator[str]:
    """The page of all settings: of a run by section, then of the service."""
    yield from ["# Configuration", "", MADE, ""]
    yield "A run is described by one YAML file. `atgen-ray config explain --all` prints the list."
    yield "Every key can also be set on the command line, as `stopping.rounds=3`."
    yield ""
    yield from ["## Everyday settings", "", "What most runs set.", ""]
    for group, everyday in explain_everyday():
        yield from [f"### {group}", ""]
        yield from table(("key", "type", "default", "meaning"), map(_setting, everyday))
    sections: dict[str, list[dict[str, str]]] = {"A run": []}
    for row in explain_config():
        key = row["key"]
        if key.startswith("evaluation.judge["):
            continue  # the keys of an annotator, listed once
        title = (
            re.split(r"[.\[]", key)[0]
            if re.search(r"[.\[]", key) or row["type"] == "section"
            else "A run"
        )
        if kind := re.match(r"annotator\[(\w+)\]", key):
            title = f"annotator of type {kind[1]}"
        sections.setdefault(title, []).append(
            row | {"key": re.sub(r"^annotator\[\w+\]", "annotator", key)}
        )
    for title, rows in sections.items():
        yield from [f"## {title}", ""]
        yield from table(("key", "type", "default", "meaning"), map(_setting, rows))
        if title == "evaluation":
            yield from [
                "`evaluation.judge` takes the keys of an annotator of a language model.",
                "",
            ]
    yield from ["## The service", "", "The keys under `args` in a file of `serve_configs/`.", ""]
    yield from table(
        ("key", "type", "default", "meaning"), map(_setting, list_settings(ServiceConfig))
    )
    yield from [
        "## Presets",
        "",
        "`atgen-ray run NAME` starts one. " + ", ".join(map(_code, list_presets())) + ".",
    ]


def describe_strategies() -> Iterator[str]:
    """The page of strategies with their parameters, and of metrics."""
    yield from ["# Strategies and metrics", "", MADE, ""]
    yield from [
        "## Strategies",
        "",
        "The value of `selection.strategy`; parameters go under `selection.parameters`.",
        "",
    ]
    for strategy in explain_strategies():
        yield from [f"### {strategy['name']}", ""]
        yield from [f"**{strategy['title']}.** {_cell(strategy['why'])}", ""]
        yield from [f"*Score:* {_cell(strategy['score'])}", ""]
        yield from [f"*Method:* {_cell(strategy['description'])}", ""]
        if strategy["parts"]:
            rows = [(_code(part["name"]), _cell(part["meaning"])) for part in strategy["parts"]]
            yield from table(("part of the score", "meaning"), rows)
        if strategy["parameters"]:
            yield from table(
                ("parameter", "type", "default", "meaning"), map(_setting, strategy["parameters"])
            )
    yield from ["## Metrics", "", "The values of `evaluation.metrics`.", ""]
    metrics = [
        (_code(name), metric.better, "yes" if metric.heavy else "", "yes" if metric.corpus else "")
        for name, metric in METRICS.items()
    ]
    yield from table(
        ("metric", "better", "loads a model", "a value of the whole set, not a mean"), metrics
    )


def describe_commands() -> Iterator[str]:
    """The page of all commands with their arguments and options."""
    yield from ["# Command line", "", MADE, ""]
    root = typer.main.get_command(app)
    yield from [str(root.help), ""]
    yield "Exit status: 0 finished, 2 a mistake in the input, 3 stopped with everything saved,"
    yield "1 anything else."
    yield ""
    for path, command in walk_commands(root, ["atgen-ray"]):
        yield from [f"## {' '.join(path)}", ""]
        yield from [_reflow(command.help or ""), ""]
        rows = []
        for parameter in command.params:
            if "--help" in parameter.opts:
                continue
            name = (
                parameter.human_readable_name
                if parameter.param_type_name == "argument"
                else parameter.opts[0]
            )
            default = getattr(parameter, "show_default", None)
            default = default if isinstance(default, str) else parameter.default
            plain = default is None or callable(default) or isinstance(default, bool)
            shown = "required" if parameter.required else "" if plain else str(default)
            rows.append((_code(name), _cell(shown), _cell(getattr(parameter, "help", None) or "")))
        yield from table(("argument or option", "default", "meaning"), rows)


def walk_commands(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Every command that does something, with the words that call it, groups entered."""
    for name, below in getattr(command, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from walk_commands(below, [*path, name])
        else:
            yield [*path, name], below


def describe_http() -> Iterator[str]:
    """The page of the HTTP API: every operation by its group, then the bodies."""
    with tempfile.TemporaryDirectory() as storage:
        service = parse_service({"storage": storage, "model": {"id": "model"}})
        schema = create_api(service, None, None).openapi()
    yield from ["# HTTP", "", MADE, ""]
    yield "A running service has the same description at `GET /openapi.json`. Every route but"
    yield "health wants `Authorization: Bearer TOKEN`. An error is a JSON object with one line in"
    yield "`error.message`."
    yield ""
    groups: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(
                (method.upper(), path, operation)
            )
    for group, operations in groups.items():
        yield from [f"## {group}", ""]
        for method, path, operation in operations:
            yield from _describe_operation(method, path, operation)
    yield from ["## Bodies", ""]
    for name, body in sorted(schema["components"]["schemas"].items()):
        yield from _describe_body(name, body)


def _describe_operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield from [f"### {method} {path}".replace("{", "\\{").replace("}", "\\}"), ""]
    yield from [operation.get("description") or operation.get("summary") or "", ""]
    rows = [
        (
            _code(each["name"]),
            each["in"],
            _type(each["schema"]),
            "yes" if each.get("required") else "",
        )
        for each in operation.get("parameters", [])
    ]
    if rows:
        yield from table(("parameter", "in", "type", "required"), rows)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from [f"Body: {_type(content.get('schema', {}))} as `{kind}`.", ""]
    answers = []
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            schemas = [
                _type(content.get("schema", {})) for content in answer.get("content", {}).values()
            ]
            answers.append(f"{status} with {' or '.join(filter(None, schemas)) or 'no body'}")
    failures = [status for status in operation["responses"] if not status.startswith("2")]
    yield f"Answers: {'; '.join(answers)}. Errors: {', '.join(sorted(failures)) or 'none'}."
    yield ""


def _describe_body(name: str, body: Mapping[str, Any]) -> Iterator[str]:
    yield from [f"### {name}", ""]
    if description := body.get("description"):
        yield from [_reflow(description), ""]
    required = body.get("required", [])
    rows = [
        (
            _code(key),
            _type(value),
            "yes" if key in required else "",
            _cell(value.get("description") or ""),
        )
        for key, value in body.get("properties", {}).items()
    ]
    if rows:
        yield from table(("field", "type", "required", "meaning"), rows)


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a JSON schema in words, with links to bodies."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return _cell(" or ".join(dict.fromkeys(_type(option) for option in options)))
    if values := schema.get("enum"):
        return ", ".join(_code(value) for value in values)
    if "const" in schema:
        return _code(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def describe_modules() -> Iterator[str]:
    """The page of the modules that authors of extensions import, filled from docstrings."""
    yield from ["# Python", "", MADE, ""]
    yield "Each module is the contract of one part. [Architecture](../architecture.md) says how"
    yield "they fit together."
    yield ""
    if names := list_public():
        yield from ["## import atgen_ray", "", "All that a program needs.", ""]
        for name in names:
            yield from [f"::: {name}", ""]
    for title, module in MODULES.items():
        yield from [f"## {title}", "", f"::: {module}", ""]


def list_public() -> list[str]:
    """Where the functions and classes of `import atgen_ray` are defined."""
    found = [getattr(atgen_ray, name) for name in sorted(getattr(atgen_ray, "__all__", []))]
    return [f"{each.__module__}.{each.__qualname__}" for each in found if callable(each)]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table and an empty line."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _setting(row: Mapping[str, str]) -> tuple[str, str, str, str]:
    default = row["default"]
    return (
        _code(row["key"]),
        _cell(row["type"]),
        default if default.startswith("(") else _code(default),
        _cell(row["description"]),
    )


def _code(value: object) -> str:
    """A value as code in a table, where a bar would end the cell."""
    text = str(value).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _cell(text: str) -> str:
    """Text in a table: one line, without what Markdown or HTML would read as markup."""
    plain = " ".join(text.split()).replace("|", "\\|")
    return (
        plain.replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*").replace("[]", "\\[\\]")
    )


def _reflow(text: str) -> str:
    """A docstring as Markdown paragraphs; an example becomes a block of code."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return "\n\n".join(
        re.sub(r"^Example: (.*)$", r"```sh\n\1\n```", paragraph).replace("<", "&lt;")
        for paragraph in paragraphs
    )
