"""Stopping rules of a run: pure functions of what happened so far, never of the test set."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from atgen_ray.config import GainConfig, PlateauConfig, StoppingConfig
from atgen_ray.evaluation import METRICS
from atgen_ray.runs.learning_curve import predict_gain

if TYPE_CHECKING:
    from atgen_ray.runs.audit import AuditedScores

SELECTED = "selected"  # why `atgen-ray select` ends
BUDGET = "budget spent"
MEASURED = "measured"  # why `atgen-ray evaluate` ends


def find_stop(
    stopping: StoppingConfig,
    rounds: int,
    labels: int,
    dev_scores: Sequence[Mapping[str, float]],
    selectable: int,
    bought: Sequence[tuple[int, float]] = (),
    count: int = 0,
    audited: "AuditedScores | None" = None,
) -> str | None:
    """Return why the run ends now, or None.

    Args:
        rounds: rounds of training done.
        labels: labels so far.
        dev_scores: mean of every metric on the dev split, one mapping a round, oldest first.
        selectable: examples left in the pool.
        bought: labels and dollars so far at each of `dev_scores`.
        count: labels that the next batch would buy.
        audited: how sure the scores are, where they are estimates of an audit: a target is reached
            once the whole interval has reached it, and a rise within its own standard error is
            none.
    """
    split = "dev" if audited is None else "audit"
    # The order decides which reason is given where several apply: goals first, then limits.
    last = dev_scores[-1:] if audited is None else [audited.sure]
    if stopping.dev_target and last and _reached(stopping.dev_target, last[0]):
        return f"{split} target reached"
    if stopping.plateau and _has_plateau(
        stopping.plateau, [scores[stopping.plateau.metric] for scores in dev_scores], audited
    ):
        verb = "rises" if _sign(stopping.plateau.metric) > 0 else "falls"
        where = "on the dev split" if audited is None else "as audited"
        return f"plateau: {stopping.plateau.metric} {where} no longer {verb}"
    if stopping.gain and (
        reason := describe_gain(stopping.gain, dev_scores, bought, count, audited)
    ):
        return reason
    if stopping.labels is not None and labels >= stopping.labels:
        return "label budget spent"
    if rounds >= stopping.rounds:
        return "all rounds done"
    if selectable == 0:
        return "pool exhausted"
    return None


def _sign(metric: str) -> int:
    """Return -1 for a metric whose lower values are better, else 1."""
    return -1 if METRICS[metric].better == "lower" else 1


def _reached(target: Mapping[str, float], scores: Mapping[str, float]) -> bool:
    return all(
        _sign(metric) * scores[metric] >= _sign(metric) * value for metric, value in target.items()
    )


def _has_plateau(
    plateau: PlateauConfig, scores: Sequence[float], audited: "AuditedScores | None"
) -> bool:
    """Return whether the last `patience` rounds gained less than `min_delta` over the best round
    before them, or no more than the standard error of that gain.
    """
    if len(scores) <= plateau.patience:
        return False
    values = np.array([_sign(plateau.metric) * score for score in scores])
    before = int(values[: -plateau.patience].argmax())
    after = len(values) - plateau.patience + int(values[-plateau.patience :].argmax())
    gain = values[after] - values[before]
    if gain <= 0 or gain < plateau.min_delta:
        return True
    return audited is not None and gain <= audited.error(plateau.metric, before, after)


def describe_gain(
    gain: GainConfig,
    scores: Sequence[Mapping[str, float]],
    bought: Sequence[tuple[int, float]],
    count: int,
    audited: "AuditedScores | None" = None,
) -> str | None:
    """Return the reason to stop if the next `count` labels gain too little by the rule `gain`, else
    None.

    Labels that cost nothing are always worth it, and a curve that is too short to extrapolate gives
    no reason. The noise of an audit is that of two rounds next to each other at least.
    """
    if not bought or not count:
        return None
    labels, dollars = bought[-1]
    price = gain.dollars_per_label or dollars / max(1, labels)
    values = [_sign(gain.metric) * row[gain.metric] for row in scores]
    noise = 0.0
    if audited is not None and len(values) > 1:
        noise = audited.error(gain.metric, len(values) - 2, len(values) - 1) / math.sqrt(2)
    forecast = predict_gain([at for at, _ in bought], values, count, noise=noise) if price else None
    if forecast is None:
        return None
    draws = forecast.expected
    # Stop only when the gain per dollar is too low with the required certainty.
    if np.mean(draws / (price * count) < gain.per_dollar) < gain.certainty:
        return None
    low, high = np.quantile(draws, [0.05, 0.95])
    return (
        f"predicted gain: the next {count} labels would better {gain.metric} by {draws.mean():.4f} "
        f"[{low:.4f}, {high:.4f}] for {price * count:.2f} dollars, under {gain.per_dollar:g} a "
        f"dollar"
    )
