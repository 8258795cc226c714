"""The report as one self-contained HTML page, and the learning curves as a PNG beside it.

The page loads nothing and runs no script; all texts of a run are escaped. Equal views give equal
bytes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from atgen_ray.reporting import formats
from atgen_ray.reporting.comparison import ALL_PAIRS, compare_views, group_runs
from atgen_ray.reporting.plots.curves import draw_learning_curve
from atgen_ray.reporting.plots.theme import SERIES, write_variables
from atgen_ray.reporting.run_view import RunView
from atgen_ray.reporting.sections import RunSection, draw_all, set_limits

PNG = "learning_curve.png"
SINGLE_RUNS = 10  # more than this are compared, but not shown one by one
DEAD_LETTERS = 50
FILTERS = {
    "metric": formats.format_metric,
    "number": formats.format_number,
    "change": formats.format_change,
    "part": formats.format_part,
    "count": formats.format_count,
    "planned": formats.format_planned,
    "dollars": formats.format_dollars,
    "seconds": formats.format_seconds,
    "share": formats.format_share,
    "cut": formats.cut_text,
    "letter": formats.name_letter,
}


def render_page(views: Sequence[RunView]) -> str:
    """Return the report on one run, or on several compared, as HTML.

    Raises:
        ValueError: `views` is empty.
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
    page = environment.get_template("report.html.j2").render(
        **prepare_page(views),
        variables=write_variables(),
        finished=sum(view.stopped is not None for view in views),
    )
    # A lone surrogate, which JSON can carry and UTF-8 cannot, becomes a question mark.
    return page.encode("utf-8", "replace").decode()


def prepare_page(views: Sequence[RunView]) -> dict[str, Any]:
    """Return the variables of the report's templates."""
    comparison = compare_views(views) if len(views) > 1 else None
    shown = views if len(views) <= SINGLE_RUNS else []
    limits = set_limits(views)
    # Runs that differ by their seed alone share a colour.
    groups = {member: index for index, group in enumerate(group_runs(views)) for member in group}
    return {
        "views": views,
        "sections": [
            RunSection(view, index, groups[index], limits, not comparison)
            for index, view in enumerate(shown)
        ],
        "series": {
            formats.name_letter(index): SERIES[group % len(SERIES)]
            for index, group in sorted(groups.items())
        },
        "comparison": comparison,
        "compared": draw_all(views, "all") if comparison else [],
        "limits": limits,
        "shown_letters": DEAD_LETTERS,
        "all_pairs": ALL_PAIRS,
        "single_runs": SINGLE_RUNS,
    }


def write_report(views: Sequence[RunView], output: str | os.PathLike[str]) -> Path:
    """Write the page to the local file `output` and `learning_curve.png` beside it; return the
    page's path.

    Both are written under another name and renamed, so that nobody reads half a file.
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
