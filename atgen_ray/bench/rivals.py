"""Comparisons other than with the baseline, such as a strategy with and without a setting."""

from collections.abc import Sequence

from atgen_ray.bench.config import BenchConfig
from atgen_ray.bench.curves import Curve
from atgen_ray.bench.summary import Comparison, compare_strategies


def compare_rivals(suite: BenchConfig, curves: Sequence[Curve]) -> list[Comparison]:
    """Each strategy of `analysis.rivals` less the one named beside it, task by task."""
    rows = []
    for strategy, other in suite.analysis.rivals.items():
        analysis = suite.analysis.model_copy(update={"baseline": other})
        pair = {name: suite.strategies[name] for name in (other, strategy)}
        found = compare_strategies(suite.model_copy(update={"analysis": analysis, "strategies": pair}), curves)
        rows += [row for row in found if row.strategy == strategy]
    return rows
