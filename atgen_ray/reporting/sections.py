"""Sections of a report as the templates show them. Each plot is drawn when a template asks for it,
and only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from atgen_ray.reporting import formats
from atgen_ray.reporting.comparison import bootstrap_difference
from atgen_ray.reporting.plots.curves import (
    CurvePanel,
    draw_curves,
    draw_losses,
    draw_seconds,
    order_steps,
    thin,
)
from atgen_ray.reporting.plots.maps import (
    Trend,
    draw_lengths,
    draw_map,
    draw_similarities,
    draw_trends,
)
from atgen_ray.reporting.plots.theme import SERIES
from atgen_ray.reporting.run_view import Estimate, RoundView, RunView
from atgen_ray.selection import Explanation, explain_strategy

CHARACTERS = 300_000  # of all texts of the page


@dataclass(frozen=True)
class PageLimits:
    """Limits that keep the page small for long runs and for many; each holds for one run."""

    rounds: int  # with their picks and plots
    points: int  # of the pool on a map
    picks: int  # of a round
    characters: int  # of a text
    config: int  # characters


@dataclass(frozen=True)
class RoundSection:
    """One round's picks, their explanation and plots."""

    view: RoundView
    explanation: Explanation
    parts: list[str]  # of the score, in the order of the strategy
    map: Markup | None
    lengths: Markup | None
    similarities: Markup | None


@dataclass(frozen=True)
class RunSection:
    """The run at `index` of a page; `alone` when there is no comparison that holds its curves."""

    view: RunView
    index: int
    group: int  # runs that differ by their seed alone share a colour
    limits: PageLimits
    alone: bool

    @property
    def letter(self) -> str:
        """Return the letter of the run in the page."""
        return formats.name_letter(self.index)

    @property
    def series(self) -> str:
        """Return the CSS variable of the run's colour."""
        return SERIES[self.group % len(SERIES)]

    @cached_property
    def gain(self) -> Estimate | None:
        """Return the mean gain of a test example from the first to the last evaluated round."""
        view = self.view
        first = view.first_scores.get(view.metric or "", {})
        last = view.last_scores.get(view.metric or "", {})
        return bootstrap_difference(first, last)

    @cached_property
    def curves(self) -> list[tuple[str, list[CurvePanel]]]:
        """Return every metric with its panels; none if a comparison on the page holds them."""
        return draw_all([self.view], self._prefix) if self.alone else []

    @cached_property
    def rounds(self) -> list[RoundSection]:
        """Return the rounds that are shown in full."""
        picked = [one for one in self.view.rounds if one.picks]
        return [
            _build_round(self.view, one, self._prefix, self.limits)
            for one in thin(picked, self.limits.rounds)
        ]

    @cached_property
    def trends(self) -> list[Trend]:
        """Return the diagnostics over the rounds."""
        return draw_trends(self.view.rounds, self._prefix)

    @property
    def steps(self) -> list[tuple[str, str, float]]:
        """Return name, CSS variable and total seconds of each step."""
        return [
            (
                step,
                SERIES[place % len(SERIES)],
                sum(one.seconds.get(step, 0.0) for one in self.view.done),
            )
            for place, step in enumerate(order_steps(self.view))
        ]

    @cached_property
    def seconds(self) -> Markup | None:
        """Return the plot of time by round."""
        return draw_seconds(self.view, self._prefix)

    @cached_property
    def losses(self) -> Markup | None:
        """Return the plot of the training loss."""
        return draw_losses(self.view, self._prefix)

    @property
    def _prefix(self) -> str:
        return f"run{self.index}"


def set_limits(views: Sequence[RunView]) -> PageLimits:
    """Return the limits of a page that shows `views`."""
    runs = len(views)
    rounds = max(1, 16 // runs)
    picks = 10 if runs <= 4 else 3
    shown = sum(min(rounds, len(view.rounds)) for view in views)
    texts = 3 * picks * shown + sum(5 * len(view.examples) for view in views)
    return PageLimits(
        rounds=rounds,
        points=max(100, min(1200, 9000 // max(1, shown))),
        picks=picks,
        characters=max(100, min(2000, CHARACTERS // max(1, texts))),
        config=min(20_000, CHARACTERS // runs),
    )


def draw_all(views: Sequence[RunView], prefix: str) -> list[tuple[str, list[CurvePanel]]]:
    """Return the panels of every metric that any of the runs has."""
    metrics = dict.fromkeys(
        metric for view in views for metric in view.metrics if view.curve(metric)
    )
    return [(metric, draw_curves(views, metric, prefix)) for metric in metrics]


def _build_round(view: RunView, one: RoundView, prefix: str, limits: PageLimits) -> RoundSection:
    explanation = explain_strategy(one.strategy)
    found = one.diagnostics
    name = f"{prefix}-round{one.round}"
    return RoundSection(
        view=one,
        explanation=explanation,
        parts=explanation.order_parts({name for pick in one.picks for name in pick.parts}),
        map=draw_map(view.pool_map, found, limits.points, f"{name}-map")
        if view.pool_map and found
        else None,
        lengths=draw_lengths(found, f"{name}-lengths") if found else None,
        similarities=draw_similarities(found, f"{name}-similarities") if found else None,
    )
