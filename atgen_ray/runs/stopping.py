"""Stopping rules of a run: pure functions of what happened so far, never of the test set."""

from collections.abc import Mapping, Sequence

import numpy as np

from atgen_ray.config import GainConfig, PlateauConfig, StoppingConfig
from atgen_ray.evaluation import METRICS
from atgen_ray.runs.learning_curve import predict_gain

SELECTED = "selected"  # why `atgen-ray select` ends
BUDGET = "budget spent"


def find_stop(
    stopping: StoppingConfig,
    rounds: int,
    labels: int,
    dev_scores: Sequence[Mapping[str, float]],
    selectable: int,
    bought: Sequence[tuple[int, float]] = (),
    count: int = 0,
) -> str | None:
    """Return why the run ends now, or None.

    Args:
        rounds: rounds of training done.
        labels: labels so far.
        dev_scores: mean of every metric on the dev split, one mapping a round, oldest first.
        selectable: examples left in the pool.
        bought: labels and dollars so far at each of `dev_scores`.
        count: labels that the next batch would buy.
    """
    # The order decides which reason is given where several apply: goals first, then limits.
    if stopping.dev_target and dev_scores and _reached(stopping.dev_target, dev_scores[-1]):
        return "dev target reached"
    if stopping.plateau and _has_plateau(
        stopping.plateau, [scores[stopping.plateau.metric] for scores in dev_scores]
    ):
        verb = "rises" if _sign(stopping.plateau.metric) > 0 else "falls"
        return f"plateau: {stopping.plateau.metric} on the dev split no longer {verb}"
    if stopping.gain and (reason := describe_gain(stopping.gain, dev_scores, bought, count)):
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


def _has_plateau(plateau: PlateauConfig, scores: Sequence[float]) -> bool:
    """Return whether the last `patience` rounds gained less than `min_delta` over the best round
    before them.
    """
    if len(scores) <= plateau.patience:
        return False
    values = [_sign(plateau.metric) * score for score in scores]
    gain = max(values[-plateau.patience :]) - max(values[: -plateau.patience])
    return gain <= 0 or gain < plateau.min_delta


def describe_gain(
    gain: GainConfig,
    scores: Sequence[Mapping[str, float]],
    bought: Sequence[tuple[int, float]],
    count: int,
) -> str | None:
    """Return the reason to stop if the next `count` labels gain too little by the rule `gain`, else
    None.

    Labels that cost nothing are always worth it, and a curve that is too short to extrapolate gives
    no reason.
    """
    if not bought or not count:
        return None
    labels, dollars = bought[-1]
    price = gain.dollars_per_label or dollars / max(1, labels)
    values = [_sign(gain.metric) * row[gain.metric] for row in scores]
    forecast = predict_gain([at for at, _ in bought], values, count) if price else None
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
