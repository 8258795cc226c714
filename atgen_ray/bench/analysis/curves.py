"""The learning curves of a suite, read from the journal and the folders of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from atgen_ray.bench.grid import Trial
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder

FEATURES = ("embedding", "generation")  # the steps that strategies need and random choice does not
Pair = tuple[str, str, int, int]  # task, model, seed and order


@dataclass(frozen=True)
class Curve:
    """One finished run: a score, labels and dollars so far, and the seconds of each step, at each
    of its rounds.

    `seconds` count what the run would have taken alone: also what other runs had made already.
    """

    cell: Trial
    metric: str
    labels: list[int]
    scores: list[float]
    dollars: list[float]
    seconds: list[dict[str, float]]

    @property
    def pair(self) -> Pair:
        """What the run has in common with the baseline's."""
        return self.cell.pair

    def seconds_so_far(self) -> list[float]:
        """Seconds of all steps up to and including each round."""
        total = 0.0
        found = []
        for row in self.seconds:
            total += sum(row.values())
            found.append(total)
        return found

    def sum_seconds(self, steps: Sequence[str]) -> float:
        """Seconds of some steps over the whole run."""
        return sum(row.get(step, 0.0) for row in self.seconds for step in steps)


def read_curves(cells: Sequence[Trial], metrics: dict[str, str], journal: Journal) -> list[Curve]:
    """A curve for each run that is finished and has the metric of its task (`metrics`) on a test
    set.
    """
    known = {record.name: record.status for record in journal.runs()}
    curves = []
    for cell in cells:
        if known.get(cell.run.name) != "finished":
            continue
        rows = RunFolder(cell.run.storage, cell.run.name).read_json("metrics.json")
        metric = metrics[cell.task]
        rows = [row for row in rows if (row["metrics"].get(metric) or {}).get("mean") is not None]
        seconds = _read_seconds(journal, cell.run.name)
        rounds = [row["round"] for row in rows]
        if rows:
            curves.append(
                Curve(
                    cell=cell,
                    metric=metric,
                    labels=[row["labels"] for row in rows],
                    scores=[row["metrics"][metric]["mean"] for row in rows],
                    dollars=[row["dollars"] for row in rows],
                    seconds=[seconds.get(round, {}) for round in rounds],
                )
            )
    return curves


def _read_seconds(journal: Journal, run: str) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for event in journal.events(run):
        if event.kind == "step":
            spent = (event.seconds or 0.0) + float(event.payload.get("reused_seconds", 0.0))
            found.setdefault(event.round or 0, {})[str(event.step)] = spent
    return found
