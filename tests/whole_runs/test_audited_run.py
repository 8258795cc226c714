"""A run without a test set that scores itself by an audit, and models that are measured by few
labels.
"""

import json
from collections.abc import Callable

from helpers.projects import Project

from atgen_ray.store.layout import AUDIT_SAMPLE

SETTINGS = (
    "selection.strategy=random",
    "data.test=null",
    "evaluation.audit.labels=10",
    "evaluation.metrics=[rougeL,nll]",
    "stopping.rounds=1",
    "--name=audited",
)


def test_an_audit_scores_each_round_and_evaluate_compares_two_models(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    for _ in range(2):  # the second time nothing is left to do
        done = project.call("run", "sort.yaml", *SETTINGS)
        assert done.returncode == 0, done.stderr
    rows = project.read("audited", "metrics.json")
    assert [row["round"] for row in rows] == [0, 1]
    for row in rows:
        assert row["audit_metrics"].keys() == {"rougeL", "nll"}
        for told in row["audit_metrics"].values():
            assert told["low"] <= told["mean"] <= told["high"]
    # One step of training makes the answers likelier, though not yet right.
    before, after = (row["audit_metrics"]["nll"]["mean"] for row in rows)
    assert after < before
    bought = project.read("audited", "labeled.jsonl")
    labeled = {row["id"] for row in bought if row["round"]}
    drawn = {row["id"] for row in project.read("audited", AUDIT_SAMPLE)}
    assert (len(labeled), len(drawn), labeled & drawn) == (5, 10, set())
    assert {row["id"] for row in bought if not row["round"]} == drawn
    shown = project.call("runs", "show", "audited")
    assert "nll" in shown.stdout

    ask = ("evaluate", "audited", "--labels", "8", "--against", "untuned", "--json")
    told = [project.call(*ask) for _ in range(2)]
    assert [each.returncode for each in told] == [0, 0], told[0].stderr
    first, second = (json.loads(each.stdout.splitlines()[-1]) for each in told)
    assert first == second
    assert "nll" in json.dumps(first)
    assert project.call("doctor", "audited").returncode == 0
