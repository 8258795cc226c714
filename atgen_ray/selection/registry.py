"""Query strategies by name, as `selection.strategy` of the configuration gives them."""

from atgen_ray.selection.ensemble import ENSEMBLE
from atgen_ray.selection.strategies import PLAIN
from atgen_ray.selection.strategy import Strategy

STRATEGIES: dict[str, Strategy] = PLAIN | {ENSEMBLE.name: ENSEMBLE}
