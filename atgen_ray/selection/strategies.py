"""The names of the query strategies."""

from atgen_ray.selection.contract import Strategy
from atgen_ray.selection.facility_location import FACILITY_LOCATION
from atgen_ray.selection.huds import HUDS
from atgen_ray.selection.uniform import RANDOM

STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in (RANDOM, HUDS, FACILITY_LOCATION)}
