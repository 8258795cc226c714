"""A run killed with SIGKILL at five points and resumed by the same command ends as an undisturbed one."""

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import sqlalchemy as sa
from projects import Project, read_until

COMPARED = [f"rounds/{at}/{file}" for at in ("001", "002") for file in ("selection.parquet", "annotations.jsonl")]

# Where the run is when it is killed: the kind of line, its round and step, and what dies.
KILLS = [
    ("event", 0, "pool", "everything"),
    ("progress", 1, "generation", "driver"),
    ("event", 1, "selection", "everything"),
    ("progress", 1, "training", "everything"),
    ("progress", 2, "evaluation", "controller"),
]


def test_same_picks_and_labels_after_five_kills(finished: Project, make_project: Callable[[], Project]) -> None:
    project = make_project()
    for kind, round, step, victim in KILLS:
        process = project.start("run", "sort.yaml", "--json")
        reached = read_until(process, kind, round, step)
        assert reached, f"the run ended before {kind} {round} {step}"
        if victim == "controller":
            os.kill(_controller_pid(project), signal.SIGKILL)
            break
        family = [process.pid]
        if victim == "everything":
            family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    # Ray restarted the controller, which replayed its journal: the driver saw nothing of it.
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["status"] == "finished"
    for file in [*COMPARED, "labeled.jsonl"]:
        assert project.read("sort", file) == finished.read("sort", file), file
    curve, expected = (
        [(row["round"], row["labels"], row["dollars"], row["metrics"]) for row in each.read("sort", "metrics.json")]
        for each in (project, finished)
    )
    assert curve == expected
    _assert_every_step_once(project)


def _journal(project: Project, query: str) -> list[Any]:
    engine = sa.create_engine(f"sqlite:///{project.folder}/atgen-runs/atgen.db")
    with engine.connect() as connection:
        return list(connection.execute(sa.text(query)))


def _controller_pid(project: Project) -> int:
    return int(_journal(project, "SELECT pid FROM controllers")[0][0])


def _assert_every_step_once(project: Project) -> None:
    steps = _journal(project, "SELECT round, step FROM events WHERE kind = 'step'")
    assert len(steps) == len(set(steps))
    sequence = [row[0] for row in _journal(project, "SELECT sequence FROM events ORDER BY sequence")]
    assert sequence == list(range(1, len(sequence) + 1))
    labels = _journal(project, "SELECT example_id, annotator FROM annotations")
    assert len(labels) == len(set(labels)) == 10
