"""Promotion of a round's adapter: what `<base>:<run>` answers with, unless it is shown to be worse.

The adapter is compared with the one that is promoted now, or with the model before training, on the
examples that both were scored on.
"""

import math
from dataclasses import dataclass
from typing import Any

from atgen_ray.core.errors import UserError
from atgen_ray.evaluation import METRICS
from atgen_ray.evaluation.audit import compare_audited
from atgen_ray.reporting.comparison import bootstrap_difference
from atgen_ray.runs.audit import read_sample
from atgen_ray.runs.state import explain_missing
from atgen_ray.store.events import Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.promotions import (
    enter_promotion,
    find_promoted,
    list_promotions,
    stack_promotions,
)
from atgen_ray.store.run_folder import RunFolder

SPLITS = ("test", "dev", "audit")  # by which is compared, the first that both rounds have
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """By how much the metric of a round is above that of another, with its 95 % interval; `paired`
    counts the examples of both, 0 where the means alone are known.
    """

    metric: str
    split: str
    round: int
    mean: float
    low: float
    high: float
    paired: int

    @property
    def is_worse(self) -> bool:
        """Return whether the whole interval is on the worse side."""
        return self.low > 0 if METRICS[self.metric].better == "lower" else self.high < 0

    def __str__(self) -> str:
        against = f"round {self.round}" if self.round else "the model before training"
        how = f"paired over {self.paired} examples" if self.paired else "by the means of both"
        return (
            f"{self.metric} ({self.split}) {self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}] "
            f"against {against}, {how}"
        )


class ShownWorseError(UserError):
    """The adapter's score is shown to be worse than that of what it would replace."""


def promote_round(
    journal: Journal,
    storage: str,
    run: str,
    round: int,
    metric: str | None = None,
    force: bool = False,
) -> str:
    """Promote the adapter of `round`; return a sentence that says what holds now.

    Args:
        metric: by which it is compared; None: the run's first one that has a direction.
        force: promote it even if it is shown to be worse.

    Raises:
        ShownWorseError: it is shown to be worse.
        UserError: there is no such run, round or metric.
    """
    journal.run(run)
    trained = sorted(at or 0 for at, step in journal.committed_steps(run) if step == "training")
    if round not in trained:
        known = ", ".join(map(str, trained)) or "none yet"
        raise UserError(f"round is {round}, expected a trained round of run '{run}' ({known})")
    folder = RunFolder(storage, run)
    path = f"{round_folder(round)}/adapter"
    if not folder.exists(path):
        raise UserError(explain_missing(run, round, "training", folder.path(path)))
    before = find_promoted(journal, run)
    if before is not None and before.round == round:
        return f"run '{run}' answers with round {round} already"
    against = (before.round or 0) if before else 0
    found = compare_rounds(folder, journal, run, round, against, metric)
    if found is not None and found.is_worse and not force:
        raise ShownWorseError(
            f"round {round} of run '{run}' is shown to be worse: {found}; --force promotes it all "
            f"the same"
        )
    enter_promotion(journal, run, round, before, found is not None and found.is_worse)
    said = f": {found}" if found else ", without a score to compare"
    return f"run '{run}' answers with round {round} now{said}"


def take_promotion_back(journal: Journal, run: str) -> str:
    """Go back to the promotion before the one that holds; return a sentence that says what holds
    now.

    Raises:
        UserError: there is no such run, or nothing is promoted.
    """
    journal.run(run)
    standing = stack_promotions(list_promotions(journal, run))
    if not standing:
        raise UserError(f"run '{run}' has no promoted adapter to go back from")
    enter_promotion(journal, run, None, standing[-1], False)
    if len(standing) == 1:
        return f"run '{run}' has no promoted adapter any more"
    return f"run '{run}' answers with round {standing[-2].round} again"


def describe_promotion(event: Event) -> str:
    """Return what a promotion, or a way back, was in words."""
    before = event.payload.get("instead_of")
    if event.round is None:
        return f"round {before} was taken back"
    instead = f" in place of round {before}" if before else ""
    forced = ", although its score was shown to be worse" if event.payload.get("forced") else ""
    return f"round {event.round} was promoted{instead}{forced}"


def compare_rounds(
    folder: RunFolder, journal: Journal, run: str, round: int, against: int, metric: str | None
) -> Difference | None:
    """Return by how much `round` scores above the round `against`; None where not both have a
    score of one split.

    Raises:
        UserError: `metric` is none that both rounds have, or is no better the larger or smaller.
    """
    evaluated = {at for at, step in journal.committed_steps(run) if step == "evaluation"}
    if not {round, against} <= evaluated:
        return None
    scores = [folder.read_json(f"{round_folder(at)}/metrics.json") for at in (against, round)]
    split = next((each for each in SPLITS if all(row.get(each) for row in scores)), None)
    if split is None:
        return None
    one, other = (row[split] for row in scores)
    name = _choose_metric([each for each in other if each in one], metric)
    if name is None:
        return None
    rows = [_read_rows(folder, at, split) for at in (against, round)]
    if all(rows):
        return _compare_rows(folder, rows, name, split, against)
    low = other[name]["low"] - one[name]["high"]
    high = other[name]["high"] - one[name]["low"]
    return Difference(name, split, against, other[name]["mean"] - one[name]["mean"], low, high, 0)


def _choose_metric(shared: list[str], metric: str | None) -> str | None:
    steered = [name for name in shared if name in METRICS and METRICS[name].better != "neither"]
    if metric is None:
        return next(iter(steered), None)
    if metric not in steered:
        known = ", ".join(steered) or "none"
        raise UserError(f"metric is '{metric[:80]}', expected one that the run scores by: {known}")
    return metric


def _read_rows(folder: RunFolder, round: int, split: str) -> list[dict[str, Any]]:
    path = f"{round_folder(round)}/predictions.jsonl"
    rows = folder.read_jsonl(path) if folder.exists(path) else []
    return [row for row in rows if row["split"] == split]


def _compare_rows(
    folder: RunFolder, rows: list[list[dict[str, Any]]], metric: str, split: str, against: int
) -> Difference | None:
    if split == "audit":
        score = compare_audited(read_sample(folder), rows[0], rows[1], metric, CONFIDENCE)
        if score is None:
            return None
        paired = len({row["id"] for row in rows[0]} & {row["id"] for row in rows[1]})
        return Difference(metric, split, against, score.mean, score.low, score.high, paired)
    values = [
        {
            row["id"]: float(value)
            for row in each
            if (value := row["scores"].get(metric)) is not None and math.isfinite(value)
        }
        for each in rows
    ]
    found = bootstrap_difference(values[0], values[1])
    if found is None:
        return None
    return Difference(metric, split, against, found.mean, found.low, found.high, found.count)
