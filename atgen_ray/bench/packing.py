"""How many runs go at once."""

import math
from collections.abc import Iterable, Mapping

from atgen_ray.bench.config import ResourcesConfig


def fit_runs(nodes: Iterable[Mapping[str, float]], resources: ResourcesConfig) -> int:
    """Runs that fit on `nodes` (Ray resources of each), none of them split over two; at least one.

    A fraction of a GPU counts as often as it goes into one: three runs of 0.3 share a GPU.
    """
    total = 0
    for node in nodes:
        fits = [_times(node.get("CPU", 0.0), resources.cpus)]
        if resources.gpus >= 1:
            fits.append(_times(node.get("GPU", 0.0), resources.gpus))
        elif resources.gpus:
            fits.append(int(node.get("GPU", 0.0)) * _times(1.0, resources.gpus))
        total += min(fits)
    return max(1, total)


def _times(room: float, demand: float) -> int:
    """How often `demand` goes into `room`, with a little allowed for the rounding of fractions."""
    return math.floor(room / demand + 1e-6)
