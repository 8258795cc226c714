"""The configuration of a suite: its combinations, its names, and one clear line for a mistake."""

from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call, write_config

from atgen_ray.bench.config import ResourcesConfig
from atgen_ray.bench.grid import list_trials, load_suite
from atgen_ray.bench.sweep import fit_runs
from atgen_ray.core.schema import merge_trees

SUITE: dict[str, Any] = {
    "run": {"selection": {"count": 5}, "training": {"epochs": 2}},
    "tasks": {
        "sort": {
            "metric": "rougeL",
            "run": {"data": {"pool": "pool.jsonl", "references": "answer"}},
        },
        "long_sort": {
            "metric": "exact_match",
            "run": {"data": {"pool": "long.jsonl", "references": "answer"}},
        },
    },
    "models": {"tiny": {"model": {"id": "some/model"}}},
    "strategies": {
        "random": {},
        "huds": {},
        "cheap": {
            "selection": {"strategy": "huds", "shortlist": {"count": 8}},
            "training": {"epochs": 3},
        },
    },
    "seeds": [1, 2],
    "orders": [0, 7],
}


def test_every_combination_is_a_run_of_its_own(tmp_path: Path) -> None:
    suite = load_suite(str(write_config(tmp_path, SUITE, "my_suite.yaml")), [], "elsewhere")
    trials = list_trials(suite)
    assert len(trials) == 2 * 3 * 2 * 2
    assert len({trial.run.name for trial in trials}) == len(trials)
    assert [trial.task for trial in trials[:4]] == ["long_sort", "sort", "long_sort", "sort"]
    assert trials[-1].run.name == "my-suite-sort-random-s2-o7"
    runs = {(trial.task, trial.strategy, trial.seed, trial.order): trial.run for trial in trials}
    cheap = runs["long_sort", "cheap", 2, 7]
    assert (cheap.data.pool, cheap.seed, cheap.training.order, cheap.training.epochs) == (
        "long.jsonl",
        2,
        7,
        3,
    )
    assert cheap.selection.strategy == "huds"
    assert cheap.selection.count == 5
    assert runs["sort", "huds", 1, 0].selection.strategy == "huds"
    assert {run.data.seed for run in runs.values()} == {
        0
    }  # all runs of a task see one pool and one test set
    assert {(run.storage, run.cache) for run in runs.values()} == {
        ("elsewhere", "elsewhere/shared")
    }


def test_a_long_name_is_cut_and_still_its_own(tmp_path: Path) -> None:
    names = (
        "a-very-long-name-of-a-strategy-that-says-much",
        "a-very-long-name-of-a-strategy-that-says-more",
    )
    tree = SUITE | {
        "strategies": {"random": {}} | {name: {"selection": {"strategy": "huds"}} for name in names}
    }
    found = {
        trial.run.name for trial in list_trials(load_suite(str(write_config(tmp_path, tree)), []))
    }
    assert len(found) == 2 * 3 * 2 * 2
    assert all(len(name) <= 63 for name in found)


def test_sections_are_laid_over_one_another() -> None:
    below = {"data": {"pool": "a", "limit": 5}, "name": "x"}
    assert merge_trees(below, {"data": {"limit": None}}) == {
        "data": {"pool": "a", "limit": None},
        "name": "x",
    }
    assert below["data"] == {"pool": "a", "limit": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "strategies.hudz={}",
            "strategy 'hudz': selection.strategy is 'hudz', expected a known strategy; did you "
            "mean",
        ),
        (
            "tasks.sort.metric=rogueL",
            "tasks.sort.metric is 'rogueL', expected one of evaluation.metrics; did you mean",
        ),
        (
            "tasks.sort={metric: words, run: {evaluation: {metrics: [words]}, data: {pool: p, "
            "references: a}}}",
            "tasks.sort.metric is 'words', expected one of which larger or smaller is better",
        ),
        (
            "tasks.other={metric: nll, run: {evaluation: {metrics: [nll]}, data: {pool: p, "
            "test: t, references: a}}}",
            "tasks.other.metric is 'nll', expected one of which larger is better, as of tasks.long_sort",
        ),
        (
            "tasks.sort.run.data.limits=3",
            "task 'sort', model 'tiny', strategy 'cheap': unknown key 'data.limits'",
        ),
        ("analysis.baseline=uniform", "analysis.baseline is 'uniform', expected one of strategies"),
        (
            "analysis.rivals.cheap=hud",
            "analysis.rivals.cheap is 'hud', expected one of strategies; did you mean 'huds'?",
        ),
        ("seeds=[1, 1]", "seeds is [1, 1], expected one or more, each once"),
        ("seed=3", "unknown key 'seed'; did you mean 'seeds'?"),
        ("run.seed=3", "run.seed is given, expected it in the suite alone"),
        ("resources.cpus=0", "resources.cpus is 0, expected greater than 0"),
        ("models={}", "models is empty, expected at least one"),
        ("tasks.sort=3", "tasks.sort is 3, expected keys and values"),
        (
            "strategies.cheap.selection.shortlist.count=3",
            "selection.shortlist.count is 3, expected at least",
        ),
        (
            "strategies.cheap.selection.shortlist.strategy=nsp",
            "selection.shortlist.strategy is 'nsp', which needs the model's generations",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, change: str, message: str) -> None:
    ended = call("bench", str(write_config(tmp_path, SUITE)), change)
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_a_suite_that_is_not_there() -> None:
    ended = call("bench", "nowhere/nightly.yaml")
    assert ended.status == 2
    assert "nowhere/nightly.yaml" in ended.err


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        ([{"CPU": 2}], {"cpus": 1}, 2),
        ([{"CPU": 3}, {"CPU": 3}], {"cpus": 2}, 2),  # no run is split over nodes
        ([{"CPU": 1}], {"cpus": 4}, 1),
        ([{"CPU": 16, "GPU": 2}], {"cpus": 1, "gpus": 0.3}, 6),
        ([{"CPU": 4, "GPU": 2}], {"cpus": 1, "gpus": 0.25}, 4),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 16}], {"cpus": 1, "gpus": 2}, 2),
        ([{"CPU": 8, "GPU": 1}], {"cpus": 0.8, "gpus": 0.1}, 10),
    ],
)
def test_as_many_runs_as_fit(
    nodes: list[dict[str, float]], resources: dict[str, float], expected: int
) -> None:
    assert (
        fit_runs(nodes, ResourcesConfig.model_validate({k: float(v) for k, v in resources.items()}))
        == expected
    )
