"""Results of a suite: all comparisons, written as JSON, Markdown, CSV, SVG and PNG."""

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from atgen_ray.bench.analysis.backtest import (
    Backtest,
    Calibration,
    backtest_stopping,
    calibrate,
    trace_curves,
)
from atgen_ray.bench.analysis.bias import (
    DistributionShift,
    SliceEffect,
    measure_shifts,
    measure_slices,
)
from atgen_ray.bench.analysis.comparisons import (
    StrategyComparison,
    compare_overall,
    compare_rivals,
    compare_strategies,
)
from atgen_ray.bench.analysis.curves import Curve
from atgen_ray.bench.analysis.overhead import Overhead, measure_overhead
from atgen_ray.bench.analysis.plots import draw_differences, draw_mean_curves
from atgen_ray.bench.analysis.tables import write_csv, write_markdown
from atgen_ray.bench.config import BenchConfig
from atgen_ray.core.strict_json import encode_json
from atgen_ray.ray_runtime.hardware import describe_machine
from atgen_ray.reporting.plots.theme import draw_png, draw_svg_file

SCORES = (
    "task",
    "model",
    "strategy",
    "metric",
    "final",
    "final_difference",
    "corrected",
    "verdict",
)
LABELS = (
    "task",
    "model",
    "strategy",
    "area_difference",
    "reach",
    "reach_seconds",
    "device_seconds",
)


@dataclass(frozen=True)
class Results:
    """All results from the finished runs of a suite, as `results.json` holds them."""

    machine: dict[str, Any]
    runs: int
    expected: int
    strategies: list[StrategyComparison]
    overall: list[StrategyComparison]
    rivals: list[StrategyComparison]
    drift: list[DistributionShift]
    slices: list[SliceEffect]
    overhead: list[Overhead]
    backtest: list[Backtest]
    calibration: Calibration
    curves: list[dict[str, Any]]


def analyse(suite: BenchConfig, curves: Sequence[Curve], expected: int) -> Results:
    """Return the results from `curves`; `expected` is the number of runs in the suite."""
    strategies = compare_strategies(suite, curves)
    traces = trace_curves(curves)
    return Results(
        machine=describe_machine(),
        runs=len(curves),
        expected=expected,
        strategies=strategies,
        overall=compare_overall(suite, curves),
        rivals=compare_rivals(suite, curves),
        drift=measure_shifts(suite, curves),
        slices=measure_slices(suite, curves),
        overhead=measure_overhead(suite, curves, strategies),
        backtest=backtest_stopping(traces, suite.analysis),
        calibration=calibrate(traces, suite.analysis),
        curves=[_plain(curve) for curve in curves],
    )


def write_results(
    suite: BenchConfig, curves: Sequence[Curve], results: Results, folder: Path
) -> None:
    """Write `results.json`, `results.md`, a CSV for each table, and both plots as SVG and PNG into
    `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(encode_json(asdict(results), indent=1) + "\n")
    (folder / "results.md").write_text(describe_results(suite, results))
    for name in ("strategies", "overall", "rivals", "drift", "slices", "overhead", "backtest"):
        (folder / f"{name}.csv").write_text(write_csv(getattr(results, name)))
    plots = {
        "curves": (
            "Learning curves, mean over seeds with intervals",
            draw_mean_curves(suite, curves),
        ),
        "differences": (
            "Final scores less the baseline's",
            draw_differences([*results.overall, *results.strategies], suite.analysis.baseline),
        ),
    }
    for name, (label, (size, draw)) in plots.items():
        (folder / f"{name}.svg").write_text(draw_svg_file(label, size, draw))
        (folder / f"{name}.png").write_bytes(draw_png(size, draw))


def describe_results(suite: BenchConfig, results: Results) -> str:
    """Return the page of the suite as Markdown: every table, and how it was computed."""
    level = f"{100 * suite.analysis.confidence:g} %"
    baseline = suite.analysis.baseline
    pairs = len(suite.seeds) * len(suite.orders)
    least = 2 / 2**pairs  # the smallest p that an exact sign test can give
    machine = ", ".join(f"{key} {value}" for key, value in results.machine.items())
    parts = [
        f"# Suite {suite.name}\n\n{results.runs} of {results.expected} runs finished; seeds "
        f"{suite.seeds}, orders "
        f"{suite.orders}. Machine: {machine}. Intervals are {level} bootstrap intervals over "
        f"pairs of runs of one seed "
        f"and order. p are exact tests by exchanged signs, corrected by Holm over the table; "
        f"{pairs} pairs cannot give "
        f"a p below {least:.4g} before the correction.\n\n![Learning curves](curves.png)\n",
        f"## Final score against {baseline}\n\n{write_markdown(results.strategies, SCORES)}",
        f"## Over all "
        f"tasks\n\n{write_markdown(results.overall, SCORES)}\n![Differences](differences.png)\n",
        f"## Area under the curve, labels to {baseline}'s final score, device seconds of a run\n\n"
        f"{write_markdown(results.strategies, LABELS)}",
        f"## Dollars\n\n{format_dollars(suite, results)}",
    ]
    if results.rivals:
        parts.append(f"## Further comparisons\n\n{write_markdown(results.rivals, SCORES)}")
    parts += [
        f"## Bias of selection: shift of the labelled set from the "
        f"pool\n\n{write_markdown(results.drift)}",
        f"## Bias of selection: effect on slices of the test "
        f"set\n\n{write_markdown(results.slices)}",
        f"## Overhead\n\nSeconds of what one run takes: {suite.resources.cpus:g} CPUs, "
        f"{suite.resources.gpus:g} GPUs, "
        f"taken to draw {suite.cost.device_watts:g} W and to cost "
        f"{suite.cost.device_dollars_per_hour:g} dollars an "
        "hour. The break-even counts labels saved by the lower bound of their interval.\n\n"
        f"{write_markdown(results.overhead)}",
        f"## Stopping by predicted gain, back-tested\n\n{_describe_backtest(results)}",
    ]
    return "\n".join(parts)


def format_dollars(suite: BenchConfig, results: Results) -> str:
    """Return a table of what a run costs until it reaches the baseline's final score: labels at
    each price, and devices.
    """
    lines = [
        "| task | model | strategy | "
        + " | ".join(f"at ${p:g} a label" for p in suite.cost.label_prices)
        + " |"
    ]
    lines.append("|" + " --- |" * (3 + len(suite.cost.label_prices)))
    for row in results.strategies:
        reach = row.reach
        if reach is None:
            continue
        cells = [
            _format_dollars(row, price, suite.cost.device_dollars_per_hour)
            for price in suite.cost.label_prices
        ]
        lines.append(f"| {row.task} | {row.model} | {row.strategy} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _format_dollars(row: StrategyComparison, price: float, per_hour: float) -> str:
    reach = row.reach
    seconds = row.reach_seconds
    if reach is None or seconds is None or math.isnan(reach.labels.low):
        return "no interval"
    if reach.reached == 0:
        return "not reached"
    bounds = zip(astuple(reach.labels)[:3], astuple(seconds)[:3], strict=True)
    mean, low, high = (labels * price + spent / 3600 * per_hour for labels, spent in bounds)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}{' or more' if reach.reached < 1 else ''}]"


def _describe_backtest(results: Results) -> str:
    found = results.calibration
    if not results.backtest:
        return "No curve has the five points that a trial needs.\n"
    error = f"{found.error.mean:+.4f} [{found.error.low:+.4f}, {found.error.high:+.4f}]"
    return (
        f"{write_markdown(results.backtest)}\nThe threshold is the least rise of the metric a "
        f"label. Of "
        f"{found.predictions} predictions of the next batch's gain, {100 * found.covered:.0f} % "
        f"held within their 90 % "
        f"interval; mean error {error}.\n"
    )


def _plain(curve: Curve) -> dict[str, Any]:
    trial = curve.trial
    return {
        "run": trial.run.name,
        "task": trial.task,
        "model": trial.model,
        "strategy": trial.strategy,
        "seed": trial.seed,
        "order": trial.order,
        "metric": curve.metric,
        "labels": curve.labels,
        "scores": curve.scores,
        "dollars": curve.dollars,
        "seconds": curve.seconds,
    }
