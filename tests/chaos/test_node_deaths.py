"""A run on a cluster whose second node, where its work is done, dies four times.

It is apart from `test_kills.py` so that two processes of the tests can take one each.
"""

from collections.abc import Callable

from helpers.cluster import run_cluster
from helpers.kills import Kind, Point, try_points
from helpers.projects import Project
from helpers.verdict import Verdict, compare


def test_a_run_outlives_the_nodes_that_do_its_work(
    finished: Project, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    steps: list[tuple[Kind, int, str]] = [
        ("event", 0, "pool"),
        ("progress", 1, "generation"),
        ("progress", 1, "training"),
        ("progress", 2, "evaluation"),
    ]
    with run_cluster() as cluster:
        points = [
            Point(kind, at, step, "second node", 0.0, cluster.replace_node)
            for kind, at, step in steps
        ]
        trial = try_points(project, points, "run", "sort.yaml", RAY_ADDRESS=cluster.address)
    assert (trial.status, trial.missed, trial.starts) == (0, [], 1), trial.err
    assert compare(project, finished) == Verdict()
