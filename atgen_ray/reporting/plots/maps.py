"""Plots of a selection: the map of the pool, and the picks compared with the pool and a random
draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from atgen_ray.reporting.diagnostics import Numbers, PoolMap, RoundDiagnostics
from atgen_ray.reporting.plots.theme import add_axes, colour, draw_svg, series_colour
from atgen_ray.reporting.run_view import RoundView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP = (360, 310)  # pixels
STRIPS = (360, 142)
TREND = (290, 165)
GROUPS = {"picked": "picks", "random": "random draw", "pool": "pool"}
LABELED = 400  # labelled examples on a map
HUES = {"picked": series_colour(1), "random": colour("muted"), "pool": colour("dots")}


@dataclass(frozen=True)
class Trend:
    """One diagnostic over the rounds."""

    title: str
    svg: Markup


def draw_map(pool: PoolMap, diagnostics: RoundDiagnostics, points: int, name: str) -> Markup | None:
    """Return the map of the pool: at most `points` of its examples in grey, those labelled before
    as rings, this round's picks in colour; None if no pick has an embedding.
    """
    if not len(diagnostics.picked):
        return None

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, 4, 4, 4, 4)
        # Picks are drawn last, on top of what they are compared with.
        grey = pool.points[:points]
        rings = diagnostics.labeled[-LABELED:]
        picked = diagnostics.picked
        axes.scatter(grey[:, 0], grey[:, 1], s=7, color=colour("dots"), alpha=0.6, linewidth=0)
        axes.scatter(
            rings[:, 0], rings[:, 1], s=26, facecolor="none", edgecolor=colour("ink"), linewidth=1.1
        )
        axes.scatter(
            picked[:, 0],
            picked[:, 1],
            s=34,
            color=HUES["picked"],
            edgecolor=colour("page"),
            linewidth=0.8,
        )
        _frame(axes, pool.points, diagnostics)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines["bottom"].set_visible(False)

    label = (
        f"Map of the pool: {len(diagnostics.picked)} picks among {len(pool.points)} examples "
        f"of the pool"
    )
    return draw_svg(name, label, MAP, draw)


def draw_lengths(diagnostics: RoundDiagnostics, name: str) -> Markup | None:
    """Return the plot of lengths in words of the picks, the random draw and the pool."""
    return _draw_strips(diagnostics.lengths, "words", name)


def draw_similarities(diagnostics: RoundDiagnostics, name: str) -> Markup | None:
    """Return the plot of cosine similarities to the nearest labelled example; None while nothing is
    labelled.
    """
    return _draw_strips(diagnostics.similarities, "cosine similarity", name)


def draw_trends(rounds: Sequence[RoundView], prefix: str) -> list[Trend]:
    """Return plots of the diagnostics over the rounds, picks and random draws; none before the
    second round.
    """
    seen = [(one.round, one.diagnostics) for one in rounds if one.diagnostics]
    if len(seen) < 2:
        return []

    def medians(groups: dict[str, Numbers]) -> dict[str, float]:
        return {name: float(np.median(values)) for name, values in groups.items() if len(values)}

    rows = {
        "Median length in words": [(round, medians(one.lengths)) for round, one in seen],
        "Median similarity to the nearest label": [
            (round, medians(one.similarities)) for round, one in seen
        ],
        "Share of clusters reached": [(round, one.coverage) for round, one in seen],
        "Share of near-duplicates": [(round, one.near_duplicates) for round, one in seen],
    }
    # Each value is a summary of a round; a measure without any value has no plot.
    trends = []
    for index, (title, values) in enumerate(rows.items()):
        if any(value for _, value in values):
            trends.append(
                Trend(
                    title, _draw_trend(values, f"{prefix}-trend-{index}", title, "Share" in title)
                )
            )
    return trends


def _draw_trend(
    rows: list[tuple[int, dict[str, float]]], name: str, title: str, share: bool
) -> Markup:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, 40, 10, 10, 36)
        for group in reversed(GROUPS):
            points = [(round, value[group]) for round, value in rows if group in value]
            if points:
                style = {"picked": "-", "random": "--", "pool": ":"}[group]
                marker = "o" if group == "picked" or len(points) == 1 else None
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=HUES[group],
                    marker=marker,
                    markersize=5,
                )
        top = max((number for _, value in rows for number in value.values()), default=0.0)
        least = min((number for _, value in rows for number in value.values()), default=0.0)
        # Cosines crowd near 1: from 0 they would all look the same.
        axes.set_ylim(
            least - 0.3 * (top - least) - 0.01 if "similarity" in title else 0, 1.1 * top or 1
        )
        axes.set_xlim(rows[0][0] - 0.15, rows[-1][0] + 0.15)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if share:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.grid(axis="y")
        axes.set_xlabel("round", loc="right")

    return draw_svg(name, title + " by round", TREND, draw)


def _draw_strips(groups: dict[str, Numbers], unit: str, name: str) -> Markup | None:
    rows = [(group, values) for group in GROUPS if len(values := groups.get(group, np.empty(0)))]
    if not rows:
        return None

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = add_axes(figure, 84, 12, 4, 36)
        for row, (group, values) in enumerate(rows):
            # The line spans 90 % of the values, the band the middle half.
            low, first, median, third, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
            hue = HUES[group]
            axes.hlines(row, low, high, color=hue, linewidth=1.5, alpha=0.7)
            axes.hlines(row, first, third, color=hue, linewidth=8, alpha=0.35)
            if group != "pool":
                axes.scatter(
                    values[:100],
                    np.full(min(100, len(values)), row),
                    s=11,
                    color=hue,
                    alpha=0.55,
                    linewidth=0,
                )
            axes.vlines(median, row - 0.28, row + 0.28, color=colour("ink"), linewidth=2)
        axes.set_yticks(range(len(rows)), [GROUPS[group] for group, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.04)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel(unit, loc="right")

    medians = "; ".join(f"{GROUPS[group]} {np.median(values):.3g}" for group, values in rows)
    return draw_svg(name, f"Median {unit}: {medians}", STRIPS, draw)


def _frame(axes: "Axes", pool: Numbers, diagnostics: RoundDiagnostics) -> None:
    """Set the limits of the axes so that all points fit: a pick far out may be missing from the
    sample of the pool.
    """
    everything = np.concatenate([pool, diagnostics.picked, diagnostics.labeled])
    low = everything.min(axis=0)
    high = everything.max(axis=0)
    room = 0.06 * (high - low) + 1e-9
    axes.set_xlim(low[0] - room[0], high[0] + room[0])
    axes.set_ylim(low[1] - room[1], high[1] + room[1])
