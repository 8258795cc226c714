"""Reports: what a run reached, at what cost, and what it selected and why."""

from atgen_ray.reporting.collect import collect_run
from atgen_ray.reporting.page import render_page, write_report
from atgen_ray.reporting.plots.curves import draw_learning_curve
from atgen_ray.reporting.run_view import RunView

__all__ = ["RunView", "collect_run", "draw_learning_curve", "render_page", "write_report"]
