"""The report: one self-contained HTML page, and the learning curves as a PNG beside it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from markupsafe import Markup

from atgen_ray.reporting import formats
from atgen_ray.reporting.comparison import ALL_PAIRS, bootstrap_difference, compare_runs, group_runs
from atgen_ray.reporting.curves import (
    CurvePanel,
    draw_curves,
    draw_learning_curve,
    draw_losses,
    draw_seconds,
    order_steps,
    thin,
)
from atgen_ray.reporting.explanations import Explanation, explain_part, explain_strategy
from atgen_ray.reporting.maps import Trend, draw_lengths, draw_map, draw_similarities, draw_trends
from atgen_ray.reporting.theme import SERIES, write_variables
from atgen_ray.reporting.view import Estimate, RoundView, RunView

PNG = "learning_curve.png"
SINGLE_RUNS = 10  # more than this are compared, but not shown one by one
DEAD_LETTERS = 50
CHARACTERS = 300_000  # of all texts of the page
FILTERS = {
    "metric": formats.write_metric,
    "number": formats.write_number,
    "change": formats.write_change,
    "part": formats.write_part,
    "count": formats.write_count,
    "planned": formats.write_planned,
    "dollars": formats.write_dollars,
    "seconds": formats.write_seconds,
    "share": formats.write_share,
    "cut": formats.cut_text,
    "letter": formats.name_letter,
}


@dataclass(frozen=True)
class Limits:
    """What keeps the page small however much there is to show; each is for one run."""

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
    parts: dict[str, str]  # name and meaning, in the order of the strategy
    map: Markup | None
    lengths: Markup | None
    similarities: Markup | None


@dataclass(frozen=True)
class RunSection:
    """One run as the template shows it."""

    view: RunView
    letter: str
    series: str  # the CSS variable of its colour
    gain: Estimate | None  # of single test examples, first to last evaluated round
    curves: list[tuple[str, list[CurvePanel]]]
    rounds: list[RoundSection]
    trends: list[Trend]
    steps: list[tuple[str, str, float]]  # name, CSS variable and seconds in all
    seconds: Markup | None
    losses: Markup | None


def render_page(views: Sequence[RunView]) -> str:
    """The report on one run, or on several compared, as HTML that loads nothing and runs no script.

    Equal views give equal pages. Raises ValueError when `views` is empty.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if not views:
        raise ValueError("a report needs at least one run")
    environment = Environment(
        loader=PackageLoader("atgen_ray.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    comparison = compare_runs(views) if len(views) > 1 else None
    shown = views if len(views) <= SINGLE_RUNS else []
    limits = _set_limits(views)
    groups = {member: index for index, group in enumerate(group_runs(views)) for member in group}
    sections = [_build_section(index, view, groups[index], limits, not comparison) for index, view in enumerate(shown)]
    page = environment.get_template("report.html.j2").render(
        sections=sections,
        views=views,
        series={formats.name_letter(index): SERIES[group % len(SERIES)] for index, group in sorted(groups.items())},
        finished=sum(view.stopped is not None for view in views),
        comparison=comparison,
        compared=_draw_all(views, "all") if comparison else [],
        variables=write_variables(),
        limits=limits,
        shown_letters=DEAD_LETTERS,
        all_pairs=ALL_PAIRS,
        single_runs=SINGLE_RUNS,
    )
    # A lone surrogate, which JSON can carry and UTF-8 cannot, becomes a question mark.
    return page.encode("utf-8", "replace").decode()


def write_report(views: Sequence[RunView], output: str | os.PathLike[str]) -> Path:
    """Writes the page to the local file `output` and `learning_curve.png` beside it; returns the page's path.

    Both are written aside and renamed, so that a reader never meets half a file.
    """
    page = render_page(views).encode()
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path.parent / PNG, draw_learning_curve(views))
    _replace(path, page)
    return path


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _set_limits(views: Sequence[RunView]) -> Limits:
    runs = len(views)
    rounds, picks = max(1, 16 // runs), 10 if runs <= 4 else 3
    shown = sum(min(rounds, len(view.rounds)) for view in views)
    texts = 3 * picks * shown + sum(5 * len(view.examples) for view in views)
    return Limits(
        rounds=rounds,
        points=max(100, min(1200, 9000 // max(1, shown))),
        picks=picks,
        characters=max(100, min(2000, CHARACTERS // max(1, texts))),
        config=min(20_000, CHARACTERS // runs),
    )


def _build_section(index: int, view: RunView, group: int, limits: Limits, alone: bool) -> RunSection:
    prefix = f"run{index}"
    picked = [one for one in view.rounds if one.picks]
    first, last = (scores.get(view.metric or "", {}) for scores in (view.first_scores, view.last_scores))
    return RunSection(
        view=view,
        letter=formats.name_letter(index),
        series=SERIES[group % len(SERIES)],
        gain=bootstrap_difference(first, last),
        curves=_draw_all([view], prefix) if alone else [],  # else they stand in the comparison
        rounds=[_build_round(view, one, prefix, limits) for one in thin(picked, limits.rounds)],
        trends=draw_trends(view.rounds, prefix),
        steps=[
            (step, SERIES[place % len(SERIES)], sum(one.seconds.get(step, 0.0) for one in view.done))
            for place, step in enumerate(order_steps(view))
        ],
        seconds=draw_seconds(view, prefix),
        losses=draw_losses(view, prefix),
    )


def _draw_all(views: Sequence[RunView], prefix: str) -> list[tuple[str, list[CurvePanel]]]:
    metrics = dict.fromkeys(metric for view in views for metric in view.metrics if view.curve(metric))
    return [(metric, draw_curves(views, metric, prefix)) for metric in metrics]


def _build_round(view: RunView, one: RoundView, prefix: str, limits: Limits) -> RoundSection:
    explanation = explain_strategy(one.strategy)
    names = {name for pick in one.picks for name in pick.parts}
    ordered = [name for name in explanation.parts if name in names] + sorted(names - explanation.parts.keys())
    found, name = one.diagnostics, f"{prefix}-round{one.round}"
    return RoundSection(
        view=one,
        explanation=explanation,
        parts={part: explain_part(one.strategy, part) for part in ordered},
        map=draw_map(view.pool_map, found, limits.points, f"{name}-map") if view.pool_map and found else None,
        lengths=draw_lengths(found, f"{name}-lengths") if found else None,
        similarities=draw_similarities(found, f"{name}-similarities") if found else None,
    )
