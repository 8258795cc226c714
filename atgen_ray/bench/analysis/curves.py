"""Learning curves of a suite, read from the journal and the folders of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from atgen_ray.bench.grid import Trial
from atgen_ray.evaluation import METRICS
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder

FEATURES = ("embedding", "generation")  # steps that strategies need, but random selection does not
PairKey = tuple[str, str, int, int]  # task, model, seed and order


@dataclass(frozen=True)
class Curve:
    """One finished run: score, labels and dollars so far, and the seconds of each step, for each of
    its rounds.

    `seconds` are those that the run would have taken alone: they include work taken from the cache
    of other runs.
    """

    trial: Trial
    metric: str
    labels: list[int]
    scores: list[float]
    dollars: list[float]
    seconds: list[dict[str, float]]

    @property
    def pair(self) -> PairKey:
        """Return what the run has in common with that of the baseline."""
        return self.trial.pair

    @property
    def sign(self) -> int:
        """Return 1 where a larger score is better, else -1."""
        return 1 if METRICS[self.metric].better == "higher" else -1

    @property
    def gains(self) -> list[float]:
        """Return the scores, negative where smaller ones are better: larger is always better."""
        return [self.sign * score for score in self.scores]

    def seconds_so_far(self) -> list[float]:
        """Return the seconds of all steps up to and including each round."""
        total = 0.0
        found = []
        for row in self.seconds:
            total += sum(row.values())
            found.append(total)
        return found

    def sum_seconds(self, steps: Sequence[str]) -> float:
        """Return the seconds of some steps over the whole run."""
        return sum(row.get(step, 0.0) for row in self.seconds for step in steps)


def read_curves(trials: Sequence[Trial], metrics: dict[str, str], journal: Journal) -> list[Curve]:
    """Return a curve for each finished run that has the metric of its task (`metrics`) on a test
    set.
    """
    known = {record.name: record.status for record in journal.runs()}
    curves = []
    for trial in trials:
        if known.get(trial.run.name) != "finished":
            continue
        # Rounds in which the metric could judge no example are left out.
        rows = RunFolder(trial.run.storage, trial.run.name).read_json("metrics.json")
        metric = metrics[trial.task]
        rows = [row for row in rows if (row["metrics"].get(metric) or {}).get("mean") is not None]
        seconds = _read_seconds(journal, trial.run.name)
        rounds = [row["round"] for row in rows]
        if rows:
            curves.append(
                Curve(
                    trial=trial,
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
    for event in journal.steps(run):
        spent = (event.seconds or 0.0) + float(event.payload.get("reused_seconds", 0.0))
        found.setdefault(event.round or 0, {})[str(event.step)] = spent
    return found
