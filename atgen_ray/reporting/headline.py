"""The metric that a report is about."""

from collections.abc import Mapping, Sequence
from typing import Any


def choose_metric(names: Sequence[str], config: Mapping[str, Any]) -> str | None:
    """Return that of the metrics `names` that the run is steered by, else ROUGE-L, else the first;
    None without any.
    """
    stopping = config.get("stopping") or {}
    steered = [
        (stopping.get("plateau") or {}).get("metric"),
        *(stopping.get("dev_target") or {}),
        "rougeL",
    ]
    return next((name for name in steered if name in names), names[0] if names else None)
