"""Mistakes in Python: a `UserError` with the very line that the command line prints, and nothing
from inside.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import SMALLEST, call, write_config
from helpers.projects import Project

import atgen_ray


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)


def fail(function: Callable[..., Any], *args: Any, **kwargs: Any) -> atgen_ray.UserError:
    """The mistake that a call ends with; its traceback shows the call and the door alone."""
    with pytest.raises(atgen_ray.UserError) as raised:
        function(*args, **kwargs)
    frames = [frame.filename for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert [Path(frame).name for frame in frames] == ["test_api_mistakes.py", "errors.py"]
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    return raised.value


def printed(*arguments: str) -> str:
    """What the command line says of a mistake, with exit status 2."""
    ended = call(*arguments)
    assert (ended.status, ended.out) == (2, "")
    return "\n".join(line.removeprefix("error: ") for line in ended.err.splitlines())


@pytest.mark.parametrize(
    "settings",
    [
        ["selection.strategy=hudds"],
        ["trainig.epochs=3"],
        ["stopping.rounds=none"],
        ["seed=x", "engine.backend=vlm"],
        ["data.pool.x=1"],
        ["stopping.rounds"],
        ["selection={strategy: k_center, parameters: {beta: 1}}"],
    ],
    ids=" ".join,
)
def test_a_wrong_setting(settings: list[str]) -> None:
    line = printed("run", "demo", *settings)
    assert str(fail(atgen_ray.run, "demo", overrides=settings)) == line
    assert str(fail(atgen_ray.plan, "demo", overrides=settings)) == line
    assert str(fail(atgen_ray.select, "demo", 3, overrides=settings)) == line
    assert not Path("atgen-runs").exists()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"selection.strategy": "hudds"}, ["selection.strategy=hudds"]),
        ({"stopping.rounds": 0}, ["stopping.rounds=0"]),
        ({"selection.parameters": {"beta": "x"}, "seed": -1}, None),
    ],
)
def test_overrides_may_be_values(overrides: dict[str, Any], line: list[str] | None) -> None:
    error = str(fail(atgen_ray.run, "demo", overrides=overrides))
    if line is not None:
        assert error == printed("run", "demo", *line)
    assert len(error.splitlines()) == len(overrides)


def test_a_configuration_that_is_not_there_or_wrong() -> None:
    assert str(fail(atgen_ray.run, "dmo")) == printed("run", "dmo")
    path = write_config(Path.cwd(), SMALLEST | {"trainig": {}})
    assert str(fail(atgen_ray.run, path)) == printed("run", str(path))
    assert str(fail(atgen_ray.run, SMALLEST | {"trainig": {}})) == printed("run", str(path))
    write_config(Path.cwd(), SMALLEST)
    assert str(fail(atgen_ray.run, path)) == printed("run", str(path))  # without its pool
    assert "data.pool is 'pool.jsonl'" in str(fail(atgen_ray.load_config, SMALLEST))


@pytest.mark.parametrize(
    ("function", "arguments", "keywords", "line"),
    [
        (atgen_ray.run, (5,), {}, "config is 5, expected a YAML file"),
        (atgen_ray.run, (None,), {}, "config is None, expected a YAML file"),
        (
            atgen_ray.run,
            ("demo",),
            {"overrides": "seed=1"},
            "overrides is 'seed=1', expected values",
        ),
        (atgen_ray.run, ("demo",), {"overrides": {3: 4}}, "3 is not a setting"),
        (atgen_ray.run, ("demo",), {"overrides": {"a b": 4}}, "'a b' is not a setting"),
        (atgen_ray.run, ("demo",), {"name": 7}, "name is 7, expected a string"),
        (atgen_ray.run, ("demo",), {"name": "../x"}, "name is '../x', expected a-z, 0-9 and -"),
        (atgen_ray.select, ("demo", 0), {}, "count is '0', expected a whole number from 1"),
        (atgen_ray.select, ("demo", "many"), {}, "count is 'many', expected"),
        (
            atgen_ray.select,
            ("demo", 2),
            {"overrides": {"fork_from": "demo"}},
            "fork_from is 'demo'",
        ),
        (atgen_ray.open_run, (None,), {}, "name is 'None', expected the name of a run"),
        (atgen_ray.compare, (["one"],), {}, "expected at least two runs"),
        (atgen_ray.report, ([],), {}, "expected at least one run"),
        (atgen_ray.report, ([3],), {}, "expected at least one run"),
        (atgen_ray.evaluate, (7,), {}, "config is 7, expected a YAML file"),
        (atgen_ray.evaluate, ("demo", []), {}, "data holds no rows"),
        (atgen_ray.evaluate, ("demo", 3), {}, "data is '3', expected rows"),
        (atgen_ray.evaluate, ("demo", ["x"]), {}, "data[0] is 'x', expected a mapping"),
        (
            atgen_ray.evaluate,
            ("demo",),
            {"metrics": ["rouge"]},
            "holds 'rouge', expected a known metric",
        ),
        (atgen_ray.evaluate, ("demo",), {"metrics": []}, "metrics is '[]', expected names"),
        (atgen_ray.evaluate, ("demo",), {"round": 1}, "round is 1, expected it for a run"),
        (
            atgen_ray.evaluate,
            ("demo",),
            {"adapter": "nowhere"},
            "adapter is 'nowhere', expected a folder",
        ),
        (atgen_ray.select_examples, ("one", 1), {}, "examples is 'one', expected a list of texts"),
        (
            atgen_ray.select_examples,
            ([], 1),
            {"strategy": "random"},
            "examples holds none without a label",
        ),
        (atgen_ray.select_examples, (["a", {}], 1), {}, "examples[1] has no text"),
        (
            atgen_ray.select_examples,
            ([{"text": "a", "id": 1}, {"text": "b", "id": "1"}], 1),
            {},
            "examples holds the id '1' twice",
        ),
        (atgen_ray.select_examples, (["a"], 1), {"strategy": "hudds"}, "did you mean 'huds'"),
        (atgen_ray.select_examples, (["a"], 1), {}, "expected config with a section `model`"),
        (
            atgen_ray.select_examples,
            (["a"], 1),
            {"strategy": "random", "parameters": {"beta": 1}},
            "selection.parameters.beta is not a parameter of 'random'",
        ),
    ],
)
def test_a_wrong_argument(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any], line: str
) -> None:
    assert line in str(fail(function, *arguments, **keywords))


def test_a_storage_or_run_that_is_not_there(finished: Project) -> None:
    line = printed("runs", "show", "sort")
    assert str(fail(atgen_ray.open_run, "sort")) == line
    assert not Path("atgen-runs").exists()
    storage = str(finished.folder / "atgen-runs")
    line = printed("runs", "show", "sart", "--storage", storage)
    assert str(fail(atgen_ray.open_run, "sart", storage=storage)) == line
    assert "did you mean 'sort'" in line
    line = printed("report", "sort", "sart", "--storage", storage)
    assert str(fail(atgen_ray.compare, ["sort", "sart"], storage=storage)) == line
    run = atgen_ray.open_run("sort", storage=storage)
    line = printed("runs", "export", "sort", "--format", "xml", "--storage", storage)
    assert str(fail(run.export, format="xml")) == line


@pytest.mark.parametrize("round", [-1, "2", 1.5, True])
def test_a_round_is_a_whole_number(finished: Project, round: Any) -> None:
    run = atgen_ray.open_run("sort", storage=finished.folder / "atgen-runs")
    for ask in (run.picks, run.predictions, run.features, run.adapter):
        assert f"round is {str(round)!r}, expected a whole number" in str(fail(ask, round))


def test_a_round_that_was_not_done_names_those_that_were(finished: Project) -> None:
    run = atgen_ray.open_run("sort", storage=finished.folder / "atgen-runs")
    line = "round 7 of run 'sort' has not been evaluated; expected one of 0, 1, 2"
    assert str(fail(run.predictions, 7)) == line
    assert str(fail(run.adapter, 0)) == "round 0 of run 'sort' has no adapter; expected one of 1, 2"


def test_what_a_plan_finds_is_what_the_command_line_says(
    make_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    monkeypatch.chdir(project.folder)
    plan = atgen_ray.plan("sort.yaml", overrides={"stopping.rounds": 3})
    assert (plan["pool_rows"], plan["rounds"], plan["labels"]) == (40, 3, 15)
    assert plan.problems == []
    plan.check()
    assert "<caption>plan</caption>" in plan._repr_html_()
    gpus = {"engine.gpus_per_worker": 4}
    plan = atgen_ray.plan("sort.yaml", overrides=gpus)
    ended = call("plan", "sort.yaml", "engine.gpus_per_worker=4")
    assert ended.status == 2
    assert [f"error: {line}" for line in plan.problems] == ended.err.splitlines()
    with pytest.raises(atgen_ray.UserError, match=r"engine\.gpus_per_worker is 4"):
        plan.check()
    columns = {"data.input": "task.wrods"}
    line = str(fail(atgen_ray.plan, "sort.yaml", overrides=columns))
    assert line == printed("plan", "sort.yaml", "data.input=task.wrods")
