"""Plots of a run's progress: learning curves over labels, dollars and seconds; seconds by step;
training loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from atgen_ray.reporting.comparison import group_runs
from atgen_ray.reporting.formats import (
    cut_text,
    format_metric,
    format_number,
    format_seconds,
    name_letter,
)
from atgen_ray.reporting.plots.theme import (
    MARKERS,
    add_axes,
    colour,
    draw_png,
    draw_svg,
    mark_value,
    plain,
    series_colour,
)
from atgen_ray.reporting.run_view import RoundView, RunView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = ("labels", "dollars", "seconds")
STEPS = ("pool", "embedding", "generation", "selection", "annotation", "training", "evaluation")
PANEL = (290, 205)  # pixels
WIDE = (400, 230)
LABEL_GAP = 12  # pixels of the SVG between two labels
TIMED_ROUNDS = 24
LOSS_ROUNDS = 8
LOSS_POINTS = 150
LOSS_VALUES = 40  # that are told under the pointer, of the newest round
MARKED = 24  # rounds; on longer curves only the last has a marker


@dataclass(frozen=True)
class PanelCurve:
    """One run's line in a panel. All numbers are finite: a bound that is missing is the mean."""

    label: str
    index: int  # of its colour
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class CurvePanel:
    """A learning curve over one of `AXES`; if there is no `svg`, `note` says why."""

    axis: str
    svg: Markup | None
    note: str


def draw_curves(views: Sequence[RunView], metric: str, prefix: str) -> list[CurvePanel]:
    """Return the three panels of a metric; `prefix` makes their names unique in the page."""
    panels = []
    for axis in AXES:
        curves, unit = _read_curves(views, metric, axis)
        if axis != "labels" and not any(x for curve in curves for x in curve.x):
            panels.append(CurvePanel(axis, None, f"No {axis} were counted."))
            continue
        label = f"{format_metric(metric)} over {unit}: " + "; ".join(
            f"{curve.label or views[0].name} from {curve.mean[0]:.3f} to {curve.mean[-1]:.3f}"
            for curve in curves
        )

        rivals = _read_rivals(views, metric)
        if rivals:
            label += "; rivals: " + ", ".join(f"{name} {score:.3f}" for name, score in rivals)

        def draw(
            figure: "Figure",
            curves: list[PanelCurve] = curves,
            unit: str = unit,
            rivals: list[tuple[str, float]] = rivals,
        ) -> None:
            _draw_panel(add_axes(figure, 38, 42, 12, 38), curves, unit, rivals)

        panels.append(
            CurvePanel(axis, draw_svg(f"{prefix}-{metric}-{axis}", label, PANEL, draw), "")
        )
    return panels


def draw_learning_curve(views: Sequence[RunView]) -> bytes:
    """Return all metrics over labels, dollars and seconds as one PNG; several runs share panels."""
    metrics = list(dict.fromkeys(metric for view in views for metric in view.metrics))
    heading = 30 + (16 * len(views) if len(views) > 1 else 0)
    width = 3 * PANEL[0]
    height = heading + max(1, len(metrics)) * PANEL[1]

    def draw(figure: "Figure") -> None:
        title = (
            plain(cut_text(views[0].name, 80)) if len(views) == 1 else f"{len(views)} runs compared"
        )
        figure.text(14 / width, 1 - 20 / height, title, fontsize=13, fontweight="bold")
        colours = _colours(views)
        # Several runs need a legend; a single one is named by the title.
        for row, view in enumerate(views if len(views) > 1 else []):
            text = f"{name_letter(row)}  {plain(cut_text(view.name, 80))}"
            figure.text(
                14 / width, 1 - (38 + 16 * row) / height, text, color=series_colour(colours[row])
            )
        if not metrics:
            figure.text(0.5, 0.4, "No metrics yet", ha="center", color=colour("muted"))
        for row, metric in enumerate(metrics):
            top = heading + row * PANEL[1]
            for column, axis in enumerate(AXES):
                right = (2 - column) * PANEL[0]
                bottom = height - top - PANEL[1]
                axes = add_axes(figure, column * PANEL[0] + 42, right + 44, top + 30, bottom + 38)
                curves, unit = _read_curves(views, metric, axis)
                _draw_panel(axes, curves, unit, _read_rivals(views, metric))
                axes.set_title(format_metric(metric), loc="left", fontsize=11, color=colour("ink"))

    return draw_png((width, height), draw)


def draw_seconds(view: RunView, prefix: str) -> Markup | None:
    """Return the seconds of each round as bars stacked by step; None when nothing was timed."""
    rounds = thin([one for one in view.done if sum(one.seconds.values()) > 0], TIMED_ROUNDS)
    if not rounds:
        return None
    # Steps keep their colour in every round, also in one where they took no time.
    steps = order_steps(view)
    totals = [sum(one.seconds.values()) for one in rounds]

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, 28, 84, 2, 4)
        left = [0.0] * len(rounds)
        for index, step in enumerate(steps):
            widths = [one.seconds.get(step, 0.0) for one in rounds]
            axes.barh(
                range(len(rounds)), widths, 0.62, left, color=series_colour(index), linewidth=0
            )
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for row, total in enumerate(totals):
            axes.annotate(
                format_seconds(total), (total, row), (6, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(rounds)), [str(one.round) for one in rounds])
        axes.set_xlim(0, max(totals))
        axes.set_ylim(len(rounds) - 0.5, -0.5)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        for row, (one, total) in enumerate(zip(rounds, totals, strict=True)):
            parts = ", ".join(
                f"{step} {format_seconds(one.seconds[step])}"
                for step in steps
                if one.seconds.get(step)
            )
            mark_value(axes, total, row, f"round {one.round}: {parts}")

    label = "Seconds by step: " + "; ".join(
        f"round {one.round} {format_seconds(total)}"
        for one, total in zip(rounds, totals, strict=True)
    )
    return draw_svg(f"{prefix}-seconds", label, (WIDE[0], 6 + 28 * len(rounds)), draw)


def draw_losses(view: RunView, prefix: str) -> Markup | None:
    """Return the training loss over optimiser steps, a line a round, the newest strongest; None
    before any training.
    """
    trained = [
        (one.round, thin(one.training.losses, LOSS_POINTS)) for one in view.rounds if one.training
    ]
    # Training without a single finite loss has no line.
    trained = [(round, losses) for round, losses in trained if losses]
    if not trained:
        return None
    shown = thin(trained, LOSS_ROUNDS)

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, 38, 62, 12, 38)
        ends = []
        for age, (round, losses) in enumerate(reversed(shown)):
            steps, values = zip(*losses, strict=True)
            hue = series_colour(0) if age == 0 else colour("muted")
            strength = 1.0 if age == 0 else max(0.25, 0.7 - 0.1 * age)
            axes.plot(
                steps, values, color=hue, alpha=strength, marker="o" if len(steps) == 1 else None
            )
            ends.append((float(steps[-1]), float(values[-1]), f"round {round}", hue))
        _finish(axes, "optimiser step", [value for _, losses in shown for _, value in losses])
        _label_ends(axes, ends)
        round, losses = shown[-1]
        for at, value in thin(losses, LOSS_VALUES):
            mark_value(axes, at, value, f"round {round}, step {at}: {format_number(value)}")

    label = "Training loss: " + "; ".join(
        f"round {round} ends at {losses[-1][1]:.3f}" for round, losses in shown
    )
    return draw_svg(f"{prefix}-loss", label, WIDE, draw)


def order_steps(view: RunView) -> list[str]:
    """Return the steps that took time, in the order of the pipeline; unknown ones last."""
    timed = {step for one in view.done for step, seconds in one.seconds.items() if seconds > 0}
    return [*(step for step in STEPS if step in timed), *sorted(timed - {*STEPS})]


def _colours(views: Sequence[RunView]) -> list[int]:
    """Return the colour index of each run; runs that differ by their seed alone share one."""
    of = {member: index for index, group in enumerate(group_runs(views)) for member in group}
    return [of[index] for index in range(len(views))]


def _read_curves(views: Sequence[RunView], metric: str, axis: str) -> tuple[list[PanelCurve], str]:
    def position(view: RunView, one: RoundView) -> float:
        return {
            "labels": one.labels or 0,
            "dollars": one.dollars,
            "seconds": view.seconds_until(one.round),
        }[axis]

    colours = _colours(views)
    # One unit for all runs of a panel, by the longest.
    longest = max((position(view, one) for view in views for one in view.done), default=0.0)
    scale, unit = _seconds_unit(longest) if axis == "seconds" else (1.0, axis)
    curves = []
    for index, view in enumerate(views):
        points = view.curve(metric)
        if points:
            curves.append(
                PanelCurve(
                    label=name_letter(index) if len(views) > 1 else "",
                    index=colours[index],
                    x=[position(view, one) / scale for one, _ in points],
                    mean=[estimate.mean for _, estimate in points],
                    low=[
                        estimate.low if math.isfinite(estimate.low) else estimate.mean
                        for _, estimate in points
                    ],
                    high=[
                        estimate.high if math.isfinite(estimate.high) else estimate.mean
                        for _, estimate in points
                    ],
                )
            )
    return curves, unit


def _seconds_unit(longest: float) -> tuple[float, str]:
    if longest >= 7200:
        return 3600.0, "hours"
    if longest >= 120:
        return 60.0, "minutes"
    return 1.0, "seconds"


def _read_rivals(views: Sequence[RunView], metric: str) -> list[tuple[str, float]]:
    """Return name and score of the rivals of a single run; zero-shot is the curve's first point."""
    rivalry = views[0].rivalry if len(views) == 1 else None
    return [
        (each.name, each.metrics[metric].mean)
        for each in (rivalry.rivals if rivalry else ())
        if each.name != "zero-shot" and metric in each.metrics and each.metrics[metric].known
    ]


def _draw_rivals(axes: "Axes", rivals: Sequence[tuple[str, float]]) -> None:
    """Draw each rival as a line over the whole panel, with its name where the line begins."""
    for name, score in rivals:
        axes.axhline(score, color=colour("muted"), linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            plain(cut_text(name, 24)),
            (0, score),
            (2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=8,
            color=colour("muted"),
        )


def _draw_panel(
    axes: "Axes", curves: list[PanelCurve], unit: str, rivals: Sequence[tuple[str, float]] = ()
) -> None:
    ends = []
    for order, curve in enumerate(curves):
        hue = series_colour(curve.index)
        alpha = 0.16 if len(curves) == 1 else max(0.04, 0.2 / len(curves))
        if len(curve.x) == 1:  # a band of no width would not be seen
            axes.vlines(curve.x, curve.low, curve.high, color=hue, alpha=0.5)
        axes.fill_between(curve.x, curve.low, curve.high, color=hue, alpha=alpha, linewidth=0)
        marks = range(len(curve.x)) if len(curve.x) <= MARKED else [len(curve.x) - 1]
        marker = MARKERS[order % len(MARKERS)]
        axes.plot(
            curve.x,
            curve.mean,
            color=hue,
            marker=marker,
            markevery=[*marks],
            markersize=5,
            clip_on=False,
        )
        ends.append(
            (curve.x[-1], curve.mean[-1], curve.label or format_number(curve.mean[-1]), hue)
        )
    axes.set_xlim(0, max((x for curve in curves for x in curve.x), default=0.0) or 1)
    values = [value for curve in curves for value in (*curve.low, *curve.high)]
    _finish(axes, unit, [*values, *(score for _, score in rivals)])
    _draw_rivals(axes, rivals)
    _label_ends(axes, ends)
    for curve in curves:
        for x, mean, low, high in zip(curve.x, curve.mean, curve.low, curve.high, strict=True):
            run = f"{curve.label}, " if curve.label else ""
            bounds = f"{format_number(low)} to {format_number(high)}"
            mark_value(axes, x, mean, f"{run}{x:.4g} {unit}: {format_number(mean)} ({bounds})")


def _finish(axes: "Axes", unit: str, values: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    low = min(values, default=0.0)
    high = max(values, default=1.0)
    room = 0.08 * (high - low) or 0.05
    axes.set_ylim(low - room if low < 0 or low - room > 0 else 0, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=unit in ("labels", "optimiser step")))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")
    axes.set_xlabel(unit, loc="right")


def _label_ends(axes: "Axes", ends: list[tuple[float, float, str, str]]) -> None:
    """Write each label beside the end of its line, moved up where two would overlap."""
    # From the lowest up, so that a label moves above those already placed.
    taken: list[tuple[float, float]] = []
    scale = axes.figure.dpi / 72
    for x, y, text, hue in sorted(ends, key=lambda end: end[1]):
        column, row = axes.transData.transform((x, y))
        free = row
        for other_column, other_row in sorted(taken, key=lambda label: label[1]):
            if (
                abs(other_column - column) < 7 * scale * len(text)
                and abs(other_row - free) < LABEL_GAP * scale
            ):
                free = other_row + LABEL_GAP * scale
        taken.append((column, free))
        axes.annotate(
            text,
            (x, y),
            (8, (free - row) / scale),
            textcoords="offset points",
            va="center",
            color=hue,
            fontweight="bold",
            annotation_clip=False,
        )


def thin(items: list[Any], limit: int) -> list[Any]:
    """Return at most `limit` of the items, evenly spaced, the first and the last among them; the
    last alone when `limit` is 1.
    """
    if len(items) <= limit or limit == 1:
        return items[-limit:]
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]
