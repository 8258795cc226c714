"""Reports: what a run reached, at what cost, and what it selected and why."""

from atgen_ray.reporting.collection import collect_run
from atgen_ray.reporting.curves import draw_learning_curve
from atgen_ray.reporting.page import render_page, write_report
from atgen_ray.reporting.view import RunView

__all__ = ["RunView", "collect_run", "draw_learning_curve", "render_page", "write_report"]
