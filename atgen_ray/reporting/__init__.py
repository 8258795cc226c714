"""Reports on runs: the quality reached, its cost, and what was selected and why.

`collect_run` reads a run's folder into a `RunView`, from which everything else is computed without
files; `render_page` and `write_report` make an HTML page of one or several views.

Example:
    write_report([collect_run(RunFolder("runs", "demo"))], "report.html")
"""

from atgen_ray.reporting.collect import collect_run
from atgen_ray.reporting.page import render_page, write_report
from atgen_ray.reporting.plots.curves import draw_learning_curve
from atgen_ray.reporting.run_view import RunView

__all__ = ["RunView", "collect_run", "draw_learning_curve", "render_page", "write_report"]
