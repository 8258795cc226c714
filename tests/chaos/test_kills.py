"""A run killed with SIGKILL at points all over its course, and resumed by the same command, ends as
an undisturbed one.

`python benchmarks/chaos.py` does the same at a hundred points and more.
"""

from collections.abc import Callable

from kills import Point, try_points
from projects import Project
from verdict import Verdict, compare

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
