"""Plug-ins of a real package, installed beside atgen-ray and used from the command line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import SMALLEST, call, write_config
from helpers.forks import run_command
from helpers.projects import Project
from pydantic import ValidationError

from atgen_ray.config import EngineConfig, PluginAnnotatorConfig, ServiceConfig, list_annotators
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core import plugins
from atgen_ray.core.errors import UserError
from atgen_ray.core.plugins import Registry, expect_callable
from atgen_ray.selection import STRATEGIES, explain_strategy
from atgen_ray.selection.strategy import find_fault
from atgen_ray.serving.pages.run_form import build_form
from atgen_ray.testing import check_metric, check_strategy

EXAMPLE = Path(__file__).parent / "example"


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example package is installed."""
    folder = tmp_path_factory.mktemp("packages")
    source = tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))  # pip writes
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=120)
    return folder


@pytest.fixture
def use_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Puts a folder of packages on the path of this process."""

    def use(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        plugins._find.cache_clear()

    yield use
    plugins._find.cache_clear()
    STRATEGIES._loaded.clear()


def declare(folder: Path, package: str, group: str, **targets: str) -> None:
    """Writes what an installed package says of itself, without any code."""
    home = folder / f"{package}-1.0.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in targets.items())]
    (home / "entry_points.txt").write_text("\n".join(lines) + "\n")


def command(packages: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`atgen-ray ARGUMENTS...` with `packages` on the path of the interpreter."""
    path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return run_command("-m", "atgen_ray.cli", *arguments, cwd=folder, env=environment, timeout=300)


def test_plugins_are_listed_with_their_packages(packages: Path, tmp_path: Path) -> None:
    found = json.loads(command(packages, tmp_path, "plugins", "--json").stdout)
    assert found["builtin"]["strategies"] == len(STRATEGIES.builtin)
    assert {(row["group"], row["name"]) for row in found["plugins"]} == {
        ("atgen_ray.strategies", "few_words"),
        ("atgen_ray.metrics", "same_start"),
        ("atgen_ray.annotators", "shout"),
        ("atgen_ray.engines", "echo"),
        ("atgen_ray.checks", "short"),
    }
    for row in found["plugins"]:
        assert (row["package"], row["version"]) == ("atgen-example", "1.2.3")
        assert row["problem"] is None


def test_plugins_are_explained_as_what_is_built_in(
    packages: Path, use_here: Callable[[Path], None]
) -> None:
    use_here(packages)
    shown = call("config", "explain", "selection.strategy", "few_words").out
    assert shown.startswith("few_words\n    Few different words. The prompts of these")
    assert "    Part words: Number of different words in the prompt." in shown
    assert "    shortest: int > 0 = 3\n" in shown
    shown = call("config", "explain", "annotator", "shout").out
    assert "annotator[shout].parameters.words: int > 0 = 1\n    Words of the label" in shown


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("selection.strategy=few_word", "selection.strategy is 'few_word', expected a known str"),
        (
            "selection={strategy: few_words, parameters: {shortst: 1}}",
            "unknown key 'selection.parameters.shortst'; did you mean 'shortest'?",
        ),
        ("evaluation.metrics=[same_strat]", "evaluation.metrics holds 'same_strat', expected a k"),
        (
            "engine.backend=ecco",
            "engine.backend is 'ecco', expected 'auto', 'vllm', 'sglang', 'transforme",
        ),
        ("annotator.type=shoot", "annotator.type is 'shoot', expected a known type; did you mean"),
        (
            "annotator={type: shout, parameters: {words: 0}}",
            "annotator.parameters: words is 0, expected greater than 0",
        ),
        ("annotator={type: plugin, name: shoot}", "annotator.name is 'shoot', expected an entry"),
    ],
)
def test_a_mistake_is_one_line(
    packages: Path,
    use_here: Callable[[Path], None],
    tmp_path: Path,
    setting: str,
    message: str,
) -> None:
    use_here(packages)
    ended = call("run", str(write_config(tmp_path, SMALLEST)), setting)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {message}"), ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_run_with_plugins_for_everything(
    packages: Path, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    settings = [
        "selection.strategy=few_words",
        "evaluation.metrics=[same_start, exact_match]",
        "annotator={type: shout, price_per_label: 0.5, parameters: {words: 2}}",
        "engine={backend: echo, check_rows: 0}",  # it does not run the model
        "stopping={rounds: 1, dollars: 2}",
    ]
    planned = command(packages, project.folder, "plan", "sort.yaml", *settings)
    assert planned.returncode == 0, planned.stderr
    ended = command(packages, project.folder, "run", "sort.yaml", *settings)
    assert ended.returncode == 0, ended.stderr
    labels = project.read("sort", "labeled.jsonl")
    assert len(labels) == 4  # what two dollars buy
    assert all(row["text"].startswith("POOL ") for row in labels)
    assert {row["annotator"] for row in labels} == {"shout"}
    picks = project.read("sort", "rounds/001/selection.parquet")
    assert all(dict(row["parts"])["words"] == -row["score"] for row in picks)
    assert set(project.read("sort", "metrics.json")[-1]["metrics"]) == {"same_start", "exact_match"}
    report = (project.folder / "atgen-runs/runs/sort/report.html").read_text()
    assert "The prompts of these examples hold few different words" in report
    assert "Number of different words in the prompt." in report


def test_the_form_of_a_new_run_offers_plugins(
    packages: Path, use_here: Callable[[Path], None]
) -> None:
    use_here(packages)
    fields = {field.key: field for group in build_form(None)[0].values() for field in group}
    assert "few_words" in fields["selection.strategy"].choices
    assert "shout" in fields["annotator.type"].choices
    assert "plugin" not in fields["annotator.type"].choices
    assert "shout" in fields["annotator.price_per_label"].types


def test_a_router_may_pass_examples_on_to_a_plugin(
    packages: Path, use_here: Callable[[Path], None]
) -> None:
    use_here(packages)
    first = {"type": "openai", "model": "gpt-4o", "votes": 2, "temperature": 0.7, "guidelines": "x"}
    tree = SMALLEST | {"annotator": {"type": "router", "first": first, "then": "shout"}}
    config = parse_config(tree)
    key, then = list_annotators(config.annotator)[1]
    assert (key, then.type) == ("annotator.then", "plugin")
    assert isinstance(then, PluginAnnotatorConfig)
    assert then.name == "shout"
    # What a run's folder keeps is read again as it was.
    assert parse_config(dump_config(config)) == config
    with pytest.raises(UserError, match=r"annotator\.then\.parameters: unknown key 'word'"):
        parse_config(
            SMALLEST
            | {
                "annotator": {
                    "type": "router",
                    "first": first,
                    "then": {"type": "shout", "parameters": {"word": 1}},
                }
            }
        )


def test_replicas_of_the_service_run_no_engine_of_a_package(
    packages: Path, use_here: Callable[[Path], None]
) -> None:
    use_here(packages)
    assert EngineConfig(backend="echo").backend == "echo"
    with pytest.raises(ValidationError, match=r"engine\.backend is 'echo', expected one of auto"):
        ServiceConfig.model_validate({"storage": "runs", "engine": {"backend": "echo"}})


def test_plugins_vote_in_the_ensemble_and_pass_the_contract(
    packages: Path, use_here: Callable[[Path], None]
) -> None:
    use_here(packages)
    from atgen_example.metrics import SAME_START
    from atgen_example.strategies import FEW_WORDS

    assert STRATEGIES["few_words"] is FEW_WORDS
    check_strategy(FEW_WORDS)
    check_strategy(FEW_WORDS, {"shortest": 5})
    check_metric(SAME_START)
    check_strategy(STRATEGIES["ensemble"], {"members": {"few_words": {}, "nsp": {}}})


def test_a_need_that_does_not_exist_is_refused() -> None:
    wrong: Any = frozenset({"text"})
    strategy = replace(STRATEGIES["nsp"], needs=wrong)
    assert find_fault("nsp", strategy) == (
        "one that needs 'text', expected embeddings, generations, samples, target, fields, "
        "texts, labels or states; did you mean 'texts'?"
    )
    assert find_fault("nsp", STRATEGIES["nsp"]) is None


def test_what_cannot_be_used_says_so_and_disturbs_nothing_else(
    tmp_path: Path, use_here: Callable[[Path], None]
) -> None:
    packages = tmp_path / "packages"
    group = "atgen_ray.strategies"
    declare(packages, "careless", group, huds="nowhere:HUDS", away="nowhere:AWAY", odd="json:dumps")
    declare(packages, "second", group, away2="a:b", misnamed="atgen_ray.selection.registry:IDDS")
    declare(packages, "third", group, away2="c:d")
    use_here(packages)
    found = json.loads(call("plugins", "--json").out)["plugins"]
    problems = {(row["name"], row["package"]): row["problem"] for row in found}
    where = "of package careless 1.0 (entry point {} in atgen_ray.strategies)"
    assert problems["away", "careless"] == (
        f"strategy 'away' {where.format('nowhere:AWAY')} cannot be imported: "
        "ModuleNotFoundError: No module named 'nowhere'"
    )
    assert problems["odd", "careless"] == (
        f"strategy 'odd' {where.format('json:dumps')} is of type function, expected an instance "
        "of Strategy"
    )
    assert problems["huds", "careless"].startswith("strategy 'huds' is built in and is offered by")
    assert "by package second 1.0" in problems["away2", "third"]
    assert "and by package third 1.0" in problems["away2", "second"]
    config = write_config(tmp_path, SMALLEST)
    for name in ("away", "odd", "huds", "away2"):
        ended = call("run", str(config), f"selection.strategy={name}")
        assert ended.status == 2
        assert ended.err.startswith(f"error: strategy '{name}'")
        assert len(ended.err.splitlines()) == 1
    assert call("config", "explain", "selection.strategy", "idds").status == 0
    listed = call("plugins").out
    assert "    cannot be used: strategy 'away' of package careless 1.0" in listed


def test_what_lies_in_the_working_directory_is_no_package(
    tmp_path: Path, use_here: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, "data-of-a-run", "atgen_ray.strategies", sneaky="sneaky:SNEAKY")
    monkeypatch.chdir(tmp_path)
    use_here(tmp_path)
    assert "sneaky" not in STRATEGIES
    plugins._find.cache_clear()
    monkeypatch.chdir("/")
    assert "sneaky" in STRATEGIES
    assert "not installed here" in explain_strategy("sneaky").why


def test_code_is_imported_when_a_name_is_used(
    tmp_path: Path, use_here: Callable[[Path], None]
) -> None:
    declare(tmp_path, "noisy", "atgen_ray.noises", bang="bang_module:bang")
    (tmp_path / "bang_module.py").write_text("raise OSError('bang,\\nit says')\n")
    use_here(tmp_path)
    noises = Registry("atgen_ray.noises", "noise", {"hum": len}, expect_callable)
    assert list(noises) == ["hum", "bang"]
    assert len(noises) == 2
    assert noises["hum"] is len
    assert [name for name, _ in noises.list_usable()] == ["hum"]
    with pytest.raises(UserError, match="cannot be imported: OSError: bang, it says"):
        noises["bang"]
    with pytest.raises(KeyError):
        noises["whisper"]
