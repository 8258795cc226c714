"""The names of the query strategies."""

from atgen_ray.selection.contract import Strategy
from atgen_ray.selection.ensemble import ENSEMBLE
from atgen_ray.selection.plain import PLAIN

STRATEGIES: dict[str, Strategy] = PLAIN | {ENSEMBLE.name: ENSEMBLE}
