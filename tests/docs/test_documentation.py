"""What the pages name exists: files, commands, options, settings, make targets, tests, links and anchors."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from helpers.pages import blocks

from atgen_ray.cli.app import app
from atgen_ray.config import RunConfig, ServiceConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.config.reference import explain_config
from atgen_ray.core.schema import list_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
REFERENCE = {f"reference/{name}.md" for name in ("config", "strategies", "cli", "http", "python")}
FOLDERS = r"(?:atgen_ray|tests|benchmarks|serve_configs|cluster|docs)"
MADE = ("benchmarks/results", "benchmarks/data")  # by the commands that the pages show
CONFIGURED = {"run", "plan", "select", "submit"}  # commands that take KEY=VALUE
ENOUGH = {"data": {"pool": "pool.jsonl", "references": "answer"}, "model": {"id": "model"}}

names = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def spans(text: str) -> list[str]:
    """The code spans of a page outside its fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


def commands(text: str) -> list[str]:
    """Every command that a page shows, in blocks and in spans."""
    lines = [
        line
        for block in blocks(text, "sh", "text")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [part.strip(" $") for line in [*lines, *spans(text)] for part in re.split(r";|&&", line)]


@cache
def settings() -> dict[str, str]:
    """The type of every key of a run and of the service; alternatives of an annotator together."""
    rows = [*explain_config(), *list_settings(ServiceConfig)]
    return {re.sub(r"\[\w*\]", "", row["key"]): row["type"] for row in rows}


def is_setting(key: str, known: dict[str, str]) -> bool:
    """Whether the key, which may end in a star, is a setting or lies in a free mapping."""
    key = re.sub(
        r"^(annotator\.(first|then)|evaluation\.judge)\.", "annotator.", key.removesuffix(".*")
    )
    parents = [key.rpartition(".")[0], key]
    return key in known or any(known.get(parent, "").startswith("dict of") for parent in parents)


def anchors(page: Path) -> set[str]:
    """The anchors of a page, as the site's generator and the usual viewers of repositories make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@cache
def root_command() -> Any:
    """The command line."""
    return typer.main.get_command(app)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words call, and what is left of them; a KeyError where there is none."""
    command: Any = root_command()
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@names
def test_files_that_a_page_names_exist(page: Path) -> None:
    found = re.findall(rf"(?<![\w./~-])({FOLDERS}/[\w./*-]+)", page.read_text())
    paths = {path.rstrip(".,-/") for path in found if not path.startswith(MADE)}
    missing = sorted(path for path in paths if not list(ROOT.glob(path)))
    assert missing == []


@names
def test_commands_and_options_that_a_page_shows_exist(page: Path) -> None:
    known, wrong = settings(), []
    for line in commands(page.read_text()):
        match = re.search(r"(?:^|-- |timeout \w+ )atgen-ray(?= )(.*)", line)
        if match is None:
            continue
        words = shlex.split(match[1], comments=True)
        try:
            command, rest = find_command(words)
        except KeyError as error:
            wrong.append(f"{line}: no command {error}")
            continue
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in rest:
            if word.startswith("--") and word.partition("=")[0] not in options:
                wrong.append(f"{line}: no option {word}")
            key = re.match(r"([a-z_.]+)=", word)
            if key and words[0] in CONFIGURED and not is_setting(key[1], known):
                wrong.append(f"{line}: no setting {key[1]}")
    assert wrong == []


@names
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = settings()
    sections = {key.partition(".")[0] for key in known if "." in key} | {"annotator"}
    keys = {
        match[1]
        for span in spans(page.read_text())
        if (match := re.match(r"([a-z_]+(?:\.[a-z_*]+)+)(?=$|[:=])", span))
    }
    files = (".py", ".md", ".json", ".jsonl", ".yaml", ".parquet", ".html", ".db")
    named = {key for key in keys if key.partition(".")[0] in sections and not key.endswith(files)}
    assert sorted(key for key in named if not is_setting(key, known)) == []


@names
def test_configurations_that_a_page_shows_are_valid(page: Path) -> None:
    for block in blocks(page.read_text(), "yaml"):
        tree = yaml.safe_load(block)
        if tree.keys() <= ServiceConfig.model_fields.keys() - RunConfig.model_fields.keys():
            ServiceConfig.model_validate(tree)
        else:
            parse_config(merge(ENOUGH, tree))


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` laid over it."""
    both = {
        key: merge(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(above[key], dict)
    }
    return below | above | both


@names
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    named = [
        target
        for line in commands(page.read_text())
        for target in re.findall(r"^make ([a-z][\w-]*)", line)
    ]
    assert sorted(set(named) - targets) == []


@names
def test_links_lead_to_files_and_anchors(page: Path) -> None:
    wrong = []
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    ):
        path, _, anchor = target.partition("#")
        if target.startswith(("http:", "https:", "mailto:")) or path in REFERENCE:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def list_tests(paths: list[str]) -> Iterator[str]:
    """The names of tests in files and folders, with those of their files."""
    for path in paths:
        place = ROOT / path
        for file in [place] if place.is_file() else sorted(place.rglob("test_*.py")):
            yield file.name
            yield from re.findall(r"def (test_\w+)", file.read_text())


@names
def test_tests_that_a_page_names_exist(page: Path) -> None:
    wrong = []
    for line in commands(page.read_text()):
        if not line.startswith("pytest "):
            continue
        words = shlex.split(line, comments=True)
        chosen = words[words.index("-k") + 1] if "-k" in words else ""
        paths = [word for word in words if word.startswith("tests")]
        if not any(chosen in name for name in list_tests(paths)):
            wrong.append(line)
    assert wrong == []


def test_the_map_has_the_rooms_in_the_order_of_the_import_rule() -> None:
    rule = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(each["layers"] for each in rule["contracts"] if each["type"] == "layers")
    rows = re.findall(
        r"^\| ((?:`atgen_ray/\w+`(?:, )?)+) \|", (ROOT / "docs/architecture.md").read_text(), re.M
    )
    rooms = [set(re.findall(r"`atgen_ray/(\w+)`", row)) for row in rows]
    assert rooms == [set(layer.split(" | ")) for layer in reversed(layers)]


def test_the_map_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = [
        path.name
        for path in (ROOT / "atgen_ray").iterdir()
        if path.is_dir() and not path.name.startswith("_")
    ]
    assert [room for room in rooms if f"`atgen_ray/{room}`" not in text] == []


def test_the_map_places_every_abstraction_where_it_is() -> None:
    wrong = []
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \| `(atgen_ray/[\w/.]+)` \|",
        (ROOT / "docs/architecture.md").read_text(),
        re.M,
    )
    assert len(rows) > 10
    for abstractions, place in rows:
        path = ROOT / place
        text = "".join(
            file.read_text() for file in ([path] if path.is_file() else path.rglob("*.py"))
        )
        found = re.findall(r"`(\w+)`", abstractions)
        wrong += [
            f"{name} in {place}"
            for name in found
            if not re.search(rf"^(?:class|def) {name}\b", text, re.M)
        ]
    assert wrong == []
