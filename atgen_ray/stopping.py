"""When a run ends. Pure functions of what happened so far; the test set is never among their arguments."""

from collections.abc import Mapping, Sequence

from atgen_ray.config import PlateauConfig, StoppingConfig
from atgen_ray.evaluation import METRICS


def find_stop(
    stopping: StoppingConfig, rounds: int, labels: int, dev_scores: Sequence[Mapping[str, float]], selectable: int
) -> str | None:
    """Why the run ends now, or None.

    Args:
        rounds: rounds of training done.
        labels: labels so far.
        dev_scores: mean of every metric on the dev split, one mapping a round, oldest first.
        selectable: examples left in the pool.
    """
    if stopping.dev_target and dev_scores and _reached(stopping.dev_target, dev_scores[-1]):
        return "dev target reached"
    if stopping.plateau and _has_plateau(stopping.plateau, [scores[stopping.plateau.metric] for scores in dev_scores]):
        verb = "rises" if _sign(stopping.plateau.metric) > 0 else "falls"
        return f"plateau: {stopping.plateau.metric} on the dev split no longer {verb}"
    if stopping.labels is not None and labels >= stopping.labels:
        return "label budget spent"
    if rounds >= stopping.rounds:
        return "all rounds done"
    if selectable == 0:
        return "pool exhausted"
    return None


def _sign(metric: str) -> int:
    """1 where larger values are better, else -1."""
    return -1 if METRICS[metric].better == "lower" else 1


def _reached(target: Mapping[str, float], scores: Mapping[str, float]) -> bool:
    return all(_sign(metric) * scores[metric] >= _sign(metric) * value for metric, value in target.items())


def _has_plateau(plateau: PlateauConfig, scores: Sequence[float]) -> bool:
    """Whether the last `patience` rounds brought no gain of at least `min_delta` over the best before them."""
    if len(scores) <= plateau.patience:
        return False
    values = [_sign(plateau.metric) * score for score in scores]
    gain = max(values[-plateau.patience :]) - max(values[: -plateau.patience])
    return gain <= 0 or gain < plateau.min_delta
