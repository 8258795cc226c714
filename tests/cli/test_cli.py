"""The command line as a whole: its help, its exit status, what it imports, and the reference it
prints.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.command_line import SMALLEST, call, write_config

from atgen_ray import __version__
from atgen_ray.cli import app as cli
from atgen_ray.config.loading import list_presets
from atgen_ray.config.reference import EVERYDAY, explain_config
from atgen_ray.selection import STRATEGIES

HEAVY = (
    "ray",
    "torch",
    "transformers",
    "vllm",
    "matplotlib",
    "datasets",
    "sklearn",
    "peft",
    "pyarrow",
    "sqlalchemy",
)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the tree with the words that call it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)


# ---- processes of their own


def test_a_mistake_ends_a_process_with_status_2_and_a_line() -> None:
    write_config(Path.cwd(), SMALLEST | {"trainig": {}})
    command = [sys.executable, "-m", "atgen_ray.cli", "run", "task.yaml", "engine.backend=vlm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: engine.backend is 'vlm', expected 'auto', 'vllm', 'sglang' or 'transformers'; did you mean "
        "'vllm'?",
        "error: unknown key 'trainig'; did you mean 'training'?",
    ]
    assert [path.name for path in Path.cwd().iterdir()] == ["task.yaml"]  # nothing was begun


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from atgen_ray import cli; print(*sys.modules); sys.argv = ['atgen-ray', "
        "'--help']; cli.main()"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    modules, _, shown = done.stdout.partition("\n")
    assert not {module.partition(".")[0] for module in modules.split()} & set(HEAVY)
    assert "Usage: atgen-ray" in shown
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    )  # seconds of work; usually 0.2


def test_a_configuration_is_checked_before_ray_is_imported() -> None:
    code = (
        "import sys; from atgen_ray import cli\n"
        "for command in ('run', 'plan'):\n"
        "    sys.argv = ['atgen-ray', command, 'demo', 'seed=x']\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: print(end.code)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    first, second, modules = done.stdout.splitlines()
    assert (first, second) == ("2", "2")
    assert not {"ray", "torch", "transformers", "vllm", "sqlalchemy"} & set(modules.split())


# ---- help


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_teaches(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    first = (command.help or "").split("\n\n")[0].replace("\n", " ")
    assert len(first.split()) >= 3
    assert first.endswith(".")
    ended = call(*path, "--help")
    assert (ended.status, ended.err) == (0, "")
    shown = " ".join(ended.out.replace("│", " ").split())
    assert first in shown
    for parameter in command.params:
        described = str(getattr(parameter, "help", ""))
        assert len(described.split()) >= 3, parameter.name
        assert all(word in shown for word in described.split()), parameter.name
        options = (
            parameter.opts if parameter.param_type_name == "option" else [str(parameter.metavar)]
        )
        assert all(option in shown for option in options), parameter.name
    for name in getattr(command, "commands", {}):
        assert f" {name} " in shown


def test_the_promised_commands_are_there() -> None:
    promised = [
        "run",
        "plan",
        "report",
        "runs list",
        "runs show",
        "runs stop",
        "runs export",
        "config explain",
    ]
    assert set(promised) <= {" ".join(path) for path in COMMANDS}


def test_run_says_how_to_resume() -> None:
    shown = " ".join(call("run", "--help").out.split())
    assert "same command" in shown
    assert "atgen-ray run demo" in shown
    assert "KEY=VALUE" in shown


def test_the_version_is_printed() -> None:
    assert call("--version").out == f"atgen-ray {__version__}\n"


def test_no_command_at_all_shows_the_help() -> None:
    ended = call()
    assert "Usage: atgen-ray" in ended.out + ended.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["rum"], "rum"),
        (["run"], "CONFIG"),
        (["run", "demo", "--nam", "x"], "--nam"),
        (["run", "demo", "--name"], "--name"),
        (["runs", "lst"], "lst"),
        (["runs", "show"], "NAME"),
        (["runs", "show", "a", "b"], "b"),
        (["report"], "NAME"),
    ],
)
def test_a_wrong_call_ends_with_status_2_and_names_what_is_wrong(
    arguments: list[str], named: str
) -> None:
    ended = call(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert named in ended.err
    assert "Traceback" not in ended.err


# ---- the reference


def test_the_reference_has_every_setting_once() -> None:
    out = call("config", "explain", "--all").out
    lines = out.splitlines()
    for row in explain_config():
        heading = f"{row['key']}: {row['type']} = {row['default']}"
        assert lines.count(heading) == 1
        assert lines[lines.index(heading) + 1] == f"    {row['description']}"


def test_the_reference_has_every_strategy_with_its_parameters() -> None:
    _, _, strategies = call("config", "explain", "--all").out.partition("\nStrategies ")
    blocks: dict[str, list[str]] = {}
    for line in strategies.splitlines()[1:]:
        if line and not line.startswith(" "):
            block = blocks.setdefault(line, [])
        elif line:
            block.append(line)
    assert blocks.pop(f"Presets: {', '.join(list_presets())}") == []
    assert sorted(blocks) == sorted(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        for parameter in strategy.parameters.model_fields:
            assert sum(line.startswith(f"    {parameter}: ") for line in blocks[name]) == 1, (
                name,
                parameter,
            )


def test_the_reference_in_json_is_the_same() -> None:
    ended = call("config", "explain", "--json")
    reference = json.loads(ended.out)
    assert reference["settings"] == list(explain_config())
    assert {strategy["name"] for strategy in reference["strategies"]} == set(STRATEGIES)
    assert reference["presets"] == list_presets()


def test_without_arguments_the_reference_has_what_most_runs_set() -> None:
    ended = call("config", "explain")
    shown = [line.strip().partition(":")[0] for line in ended.out.splitlines()]
    for group, keys in EVERYDAY.items():
        assert shown.count(group) == 1
        for key in keys:
            assert shown.count(key) == 1, key
    assert len(ended.out.splitlines()) < 80
    assert "atgen-ray config explain --all" in ended.out
    assert "dataset | human | openai" in ended.out


def test_a_section_a_key_and_a_type_are_explained_alone() -> None:
    def keys(*arguments: str) -> list[str]:
        found = json.loads(call("config", "explain", *arguments, "--json").out)
        return [row["key"] for row in found["settings"]]

    training = [row["key"] for row in explain_config() if row["key"].startswith("training")]
    assert keys("training") == training
    assert keys("training.epochs") == ["training.epochs"]
    assert "annotator[openai].model" in keys("annotator.model")
    assert all(key.startswith("annotator[human].") for key in keys("annotator", "human"))
    assert "training.epochs: float > 0" in call("config", "explain", "training").out


def test_a_strategy_is_explained_with_its_why_its_parts_and_its_parameters() -> None:
    shown = call("config", "explain", "selection.strategy", "huds").out
    strategy = STRATEGIES["huds"]
    assert shown.startswith("huds\n    Hybrid uncertainty and diversity. These examples are hard")
    assert f"    Score: {strategy.score}" in shown
    assert f"    Part negative log-likelihood: {strategy.parts['nll']}" in shown
    assert "    strata: int > 0 = 10\n" in shown
    listed = call("config", "explain", "selection.strategy").out
    assert all(f"    {name}: {each.title}" in listed for name, each in STRATEGIES.items())
    assert "    rouge1: higher is better" in call("config", "explain", "evaluation.metrics").out


def test_the_reference_is_searched_by_words() -> None:
    found = json.loads(call("config", "explain", "--search", "Learning RATE", "--json").out)
    assert "training.learning_rate" in [row["key"] for row in found["settings"]]
    assert len(found["settings"]) < 10
    shown = call("config", "explain", "--search", "outliers").out
    assert "k_center" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainig"], "key 'trainig' is unknown; did you mean 'training'?"),
        (["selection.strategy", "hudz"], "strategy 'hudz' is unknown; did you mean 'huds'?"),
        (["annotator", "opnai"], "annotator.type 'opnai' is unknown; did you mean 'openai'?"),
        (["training", "huds"], "'huds' after 'training' is not understood, expected a name"),
        (["--search", " "], "--search is empty, expected words"),
        (["--search", "zzzz"], "--search is 'zzzz', which no setting and no strategy holds"),
        (["training", "--all"], "KEY, --search and --all exclude each other"),
    ],
)
def test_a_question_that_the_reference_cannot_answer_is_one_line(
    arguments: list[str], message: str
) -> None:
    ended = call("config", "explain", *arguments)
    assert ended.status == 2
    assert ended.err.startswith(f"error: {message}")
    assert len(ended.err.splitlines()) == 1
