"""A run killed with SIGKILL at points all over its course, and resumed by the same command, ends as
an undisturbed one.

`python benchmarks/chaos.py` does the same at a hundred points and more.
"""

from collections.abc import Callable

from kills import Point, try_points
from projects import Project
from verdict import Verdict, compare

from cluster import run_cluster

KILLS = [
    Point("event", 0, "pool", "everything"),
    Point("event", 0, "embedding", "controller"),
    Point("progress", 0, "evaluation", "engine worker"),
    Point("event", 0, "evaluation", "node"),
    Point("progress", 1, "generation", "driver"),
    Point("event", 1, "selection", "controller"),
    Point("event", 1, "annotation", "everything"),
    Point("progress", 1, "training", "train worker"),
    Point("event", 1, "training", "controller", 0.3),
    Point("progress", 2, "generation", "engine worker"),
    Point("progress", 2, "training", "everything"),
    Point("progress", 2, "evaluation", "controller"),
]


def test_twelve_kills_change_nothing(
    finished: Project, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    trial = try_points(project, KILLS, "run", "sort.yaml")
    assert trial.status == 0, trial.err
    assert trial.missed == []
    assert compare(project, finished) == Verdict()


def test_a_run_outlives_the_nodes_that_do_its_work(
    finished: Project, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    steps = [
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
