"""Plots of a suite: learning curves task by task, and differences from the baseline with their
intervals.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atgen_ray.bench.analysis.comparisons import StrategyComparison, list_points
from atgen_ray.bench.analysis.curves import Curve
from atgen_ray.bench.analysis.statistics import Points, align_curves, estimate_mean
from atgen_ray.bench.config import BenchConfig
from atgen_ray.reporting.formats import format_metric
from atgen_ray.reporting.plots.theme import MARKERS, Draw, add_axes, colour, series_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = (300, 230)  # pixels
ACROSS = 2
ROW = 22
HEADING = 44
LETTER = 6.3
Plot = tuple[tuple[float, float], Draw]  # size in pixels, and the function that draws it


def draw_mean_curves(suite: BenchConfig, curves: Sequence[Curve]) -> Plot:
    """Return a plot with a panel for each task and model: the mean curve of every strategy, and its
    interval over seeds as a band.
    """
    # The legend stands above the panels once, since all share its colours.
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.trial.task, curve.trial.model), []).append(curve)
    strategies = list(suite.strategies)
    rows = math.ceil(len(groups) / ACROSS)
    legend = 24 * math.ceil(len(strategies) / 3)
    width = ACROSS * PANEL[0]
    height = rows * PANEL[1] + legend

    def draw(figure: "Figure") -> None:
        for index, strategy in enumerate(strategies):
            x = 16 + (index % 3) * (width - 16) / 3
            y = height - 16 - 24 * (index // 3)
            figure.text(
                x / width, y / height, f"● {strategy}", color=series_colour(index), va="center"
            )
        for position, ((task, model), group) in enumerate(groups.items()):
            row, column = divmod(position, ACROSS)
            right = width - (column + 1) * PANEL[0] + 12
            top = legend + row * PANEL[1] + 30
            axes = add_axes(
                figure,
                column * PANEL[0] + 44,
                right,
                top,
                height - legend - (row + 1) * PANEL[1] + 40,
            )
            for index, strategy in enumerate(strategies):
                own = [list_points(curve) for curve in group if curve.trial.strategy == strategy]
                if own:
                    labels, means, low, high = band(own, suite)
                    hue = series_colour(index)
                    axes.plot(
                        labels, means, color=hue, marker=MARKERS[index % len(MARKERS)], markersize=4
                    )
                    axes.fill_between(labels, low, high, color=hue, alpha=0.1, linewidth=0)
            name = task if len(suite.models) == 1 else f"{task}, {model}"
            axes.set_title(
                f"{name}: {format_metric(group[0].metric)}",
                loc="left",
                fontsize=11,
                color=colour("ink"),
            )
            axes.set_xlabel("labels")
            axes.grid(axis="y")

    return (width, height), draw


def draw_differences(rows: Sequence[StrategyComparison], baseline: str) -> Plot:
    """Return a plot of the final score minus the baseline's: a line for each strategy and task,
    with its interval.
    """
    shown = [row for row in rows if row.strategy != baseline]
    names = [f"{row.task}: {row.strategy}" for row in shown]
    margin = 24 + LETTER * max(map(len, names), default=0)
    width = margin + 1.5 * PANEL[0]
    height = HEADING + ROW * max(1, len(shown)) + 30

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, margin, 16, HEADING - 14, 30)
        axes.axvline(0, color=colour("muted"), linewidth=1)
        for line, row in enumerate(shown):
            found = row.final_difference
            # Differences that were not shown are grey, whatever their sign.
            known = row.verdict in ("better", "worse")
            hue = series_colour(0 if row.verdict != "worse" else 1) if known else colour("muted")
            if math.isfinite(found.low):
                axes.plot([found.low, found.high], [line, line], color=hue)
            axes.plot([found.mean], [line], color=hue, marker="o", markersize=6)
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="x")
        figure.text(
            16 / width, 1 - 16 / height, f"final score less that of {baseline}", va="center"
        )

    return (width, height), draw


def band(
    curves: Sequence[Points], suite: BenchConfig
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return labels, and at each the mean score and the bounds of its interval; without an interval
    the bounds are the mean.
    """
    labels, scores = align_curves(curves)
    estimates = [estimate_mean(column, suite.analysis) for column in scores.T.tolist()]
    low = [row.low if math.isfinite(row.low) else row.mean for row in estimates]
    high = [row.high if math.isfinite(row.high) else row.mean for row in estimates]
    return labels, [row.mean for row in estimates], low, high
