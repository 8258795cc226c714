"""Whether a run that was killed ended as the undisturbed one: picks, labels, ledger, metrics, and
its journal whole, of which the doctor finds each output.
"""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from atgen_ray.runs.doctor import examine
from atgen_ray.store.journal import Journal
from helpers.projects import Project

FILES = [
    f"rounds/{at}/{file}"
    for at in ("001", "002")
    for file in ("selection.parquet", "annotations.jsonl")
]
FILES.append("labeled.jsonl")


@dataclass
class Verdict:
    """What differs from the undisturbed run; all of it empty or 0 when nothing does."""

    different: list[str] = field(default_factory=list)
    lost: int = 0  # labels that the undisturbed run has
    paid_twice: int = 0  # examples with more than one label or entry in the ledger

    @property
    def same(self) -> bool:
        return not (self.different or self.lost or self.paid_twice)


def compare(
    project: Project, golden: Project, run: str = "sort", database: str | None = None
) -> Verdict:
    """The run in `project` against the one in `golden`; `database` is the URL of its journal where
    it is elsewhere.
    """
    verdict = Verdict()
    for file in FILES:
        if _read(project, run, file) != _read(golden, run, file):
            verdict.different.append(file)
    found, expected = _Books(project, run, database), _Books(golden, run)
    curves = [
        [
            (row["round"], row["labels"], row["dollars"], row["metrics"])
            for row in each.read(run, "metrics.json")
        ]
        for each in (project, golden)
    ]
    verdict.different += ["metrics"] * (curves[0] != curves[1])
    verdict.different += ["ledger"] * (found.ledger != expected.ledger)
    verdict.different += ["steps"] * (found.steps != expected.steps)
    verdict.different += ["events with gaps"] * (
        found.sequence != list(range(1, len(found.sequence) + 1))
    )
    storage = f"{project.folder}/atgen-runs"
    with closing(Journal(database or f"sqlite:///{storage}/atgen.db")) as journal:
        diagnosis = examine(journal, storage, run, deep=True)
    verdict.different += [f"{each.kind}: {each.what}" for each in diagnosis.findings]
    verdict.lost = len(set(expected.labels) - set(found.labels))
    for keys in (found.labels, [(row.example_id, row.annotator) for row in found.ledger]):
        verdict.paid_twice += sum(count - 1 for count in Counter(keys).values())
    return verdict


def _read(project: Project, run: str, file: str) -> Any:
    """Without the hour and the name of the request that bought a label: every request has one of
    its own.
    """
    rows = project.read(run, file)
    for row in rows:
        for key in ("when", "request"):
            (row.get("provenance") or {}).pop(key, None)
    return rows


class _Books:
    """What a run's journal says, read with plain SQL."""

    def __init__(self, project: Project, run: str, database: str | None = None) -> None:
        engine = sa.create_engine(database or f"sqlite:///{project.folder}/atgen-runs/atgen.db")

        def ask(query: str) -> list[Any]:
            with engine.connect() as connection:
                return list(connection.execute(sa.text(query), {"run": run}))

        self.sequence = [
            row[0] for row in ask("SELECT sequence FROM events WHERE run = :run ORDER BY sequence")
        ]
        steps = (
            "SELECT round, step FROM events WHERE run = :run AND kind = 'step' ORDER BY sequence"
        )
        self.steps = [tuple(row) for row in ask(steps)]
        labels = "SELECT example_id, annotator FROM annotations WHERE run = :run ORDER BY round, id"
        self.labels = [tuple(row) for row in ask(labels)]
        # What was sent again because nobody had billed it stands in the ledger with nothing paid.
        paid = "coalesce(paid, -1)"
        ledger = (
            f"SELECT round, annotator, example_id, {paid} FROM ledger WHERE run = :run AND "
            f"{paid} <> 0"
        )
        self.ledger = sorted(ask(ledger))
        engine.dispose()
