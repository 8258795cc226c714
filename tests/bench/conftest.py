"""A suite over the sorting project of tests/conftest.py."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from helpers.projects import Project


def make_suite(run: dict[str, Any]) -> dict[str, Any]:
    """Two strategies with two seeds on one task, one round each; `run` is the project's own
    configuration.
    """
    data, prompt, model = (run.pop(name) for name in ("data", "prompt", "model"))
    run["stopping"] = {"rounds": 1}
    run["evaluation"] = {"metrics": ["rougeL", "token_f1"]}
    run.pop("selection")
    return {
        "name": "sorting",
        "run": run | {"selection": {"count": 5, "candidates": 20}},
        "tasks": {"sort": {"metric": "token_f1", "run": {"data": data, "prompt": prompt}}},
        "models": {"tiny": {"model": model}},
        "strategies": {"random": {}, "facility_location": {}},
        "seeds": [1, 2],
        "analysis": {"resamples": 200},
    }


@pytest.fixture(scope="session")
def make_bench(make_project: Callable[[], Project]) -> Callable[[], Project]:
    """Makes projects with a `suite.yaml`."""

    def make() -> Project:
        project = make_project()
        suite = make_suite(yaml.safe_load((project.folder / "sort.yaml").read_text()))
        (project.folder / "suite.yaml").write_text(yaml.safe_dump(suite))
        return project

    return make
