"""For authors of plug-ins: the contract and property tests that everything built in passes.

Needs pytest and hypothesis: `pip install 'atgen-ray[testing]'`. Example:

    from atgen_ray.testing import check_strategy
    from my_package.strategies import MY_STRATEGY

    def test_my_strategy() -> None:
        check_strategy(MY_STRATEGY)
"""

from atgen_ray.testing.metrics import METRIC_CHECKS, check_metric
from atgen_ray.testing.pools import Pool, make_pool, pools
from atgen_ray.testing.strategies import STRATEGY_CHECKS, check_strategy

__all__ = [
    "METRIC_CHECKS",
    "STRATEGY_CHECKS",
    "Pool",
    "check_metric",
    "check_strategy",
    "make_pool",
    "pools",
]
