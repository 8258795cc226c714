"""What follows from a suite whose scores are known."""

import csv
import io
import json
import random
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.suites import BATCH, ROUNDS, make_suite, make_up

from atgen_ray.bench.analysis.backtest import backtest_stopping, calibrate, trace_curves
from atgen_ray.bench.analysis.comparisons import ALL, compare_overall, compare_strategies
from atgen_ray.bench.analysis.curves import Curve
from atgen_ray.bench.analysis.overhead import find_break_even, measure_overhead, state_break_even
from atgen_ray.bench.analysis.results import analyse, write_results
from atgen_ray.bench.analysis.statistics import Interval
from atgen_ray.bench.config import BenchConfig
from atgen_ray.bench.grid import Trial

LIFT = {"random": 0.0, "good": 0.1, "same": 0.0}


def score(trial: Trial, round: int) -> float:
    """A power law, with noise by seed; `good` is a constant better once it has labels."""
    noise = (
        random.Random(f"{trial.task} {trial.strategy} {trial.seed} {round}").gauss(0, 0.008)
        if round
        else 0.0
    )
    return float(
        0.6 - 0.5 * (round * BATCH + 1) ** -0.4 + noise + (LIFT[trial.strategy] if round else 0.0)
    )


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> BenchConfig:
    return make_suite(
        tmp_path_factory.mktemp("suite"), analysis={"resamples": 300, "rivals": {"good": "same"}}
    )


@pytest.fixture(scope="module")
def curves(suite: BenchConfig) -> list[Curve]:
    return make_up(suite, score)


def test_a_curve_counts_what_was_shared(curves: list[Curve]) -> None:
    assert len(curves) == 2 * 3 * 5
    first = next(curve for curve in curves if curve.trial.strategy == "good")
    assert first.labels == [round * BATCH for round in range(ROUNDS + 1)]
    assert first.dollars[-1] == 60.0
    assert first.seconds[0] == {"evaluation": 8.0}
    assert first.seconds_so_far() == [8.0 + 36.0 * round for round in range(ROUNDS + 1)]


def test_five_seeds_show_nothing_on_one_task_and_a_difference_on_two(
    suite: BenchConfig, curves: list[Curve]
) -> None:
    single = {(row.task, row.strategy): row for row in compare_strategies(suite, curves)}
    assert single["one", "good"].final_difference.low > 0.08
    assert single["one", "good"].p == pytest.approx(0.0625)
    assert {row.verdict for row in single.values()} == {"baseline", "no difference shown"}
    overall = {row.strategy: row for row in compare_overall(suite, curves)}
    assert {row.task for row in overall.values()} == {ALL}
    assert overall["good"].final_difference.count == 10
    assert overall["good"].corrected == pytest.approx(2 * 2 / 2**10)
    assert {name: row.verdict for name, row in overall.items()} == {
        "random": "baseline",
        "good": "better",
        "same": "no difference shown",
    }


def test_labels_to_the_baselines_score(suite: BenchConfig, curves: list[Curve]) -> None:
    rows = {row.strategy: row for row in compare_strategies(suite, curves) if row.task == "two"}
    good, same, spent = rows["good"].reach, rows["same"].reach, rows["good"].reach_seconds
    assert spent is not None
    assert good is not None
    assert same is not None
    assert 4 < good.labels.mean < 12
    assert good.labels.low <= good.labels.mean <= good.labels.high < same.labels.mean
    assert good.reached == 1.0
    assert spent.mean == pytest.approx(
        8 + 36 * good.labels.mean / BATCH
    )  # the model answers, then rounds of 36 s


def test_a_smaller_score_may_be_the_better_one(
    curves: list[Curve], suite: BenchConfig, tmp_path: Path
) -> None:
    """Mirrored scores give mirrored differences, the same labels and the same verdicts."""
    mirror = make_suite(tmp_path, "nll", analysis=suite.analysis.model_dump())
    mirrored = make_up(mirror, lambda trial, round: -score(trial, round))
    for own, other in zip(
        [*compare_overall(mirror, mirrored), *compare_strategies(mirror, mirrored)],
        [*compare_overall(suite, curves), *compare_strategies(suite, curves)],
        strict=True,
    ):
        assert own.final_difference.mean == pytest.approx(-other.final_difference.mean)
        assert (own.verdict, own.reach) == (other.verdict, other.reach)
    assert backtest_stopping(trace_curves(mirrored), mirror.analysis) == backtest_stopping(
        trace_curves(curves), suite.analysis
    )


def test_overhead_a_label_saved_and_the_price_where_it_pays(
    suite: BenchConfig, curves: list[Curve]
) -> None:
    rows = measure_overhead(suite, curves, compare_strategies(suite, curves))
    good = next(row for row in rows if (row.task, row.strategy) == ("one", "good"))
    assert (good.features, good.selection, good.training) == (20.0 * ROUNDS, ROUNDS, 10.0 * ROUNDS)
    assert good.extra.mean == pytest.approx(21.0 * ROUNDS)
    assert good.watt_hours == pytest.approx((120 + 6 + 60 + 38) * 15 / 3600)
    assert 15 < good.saved.low <= good.saved.mean <= good.saved.high
    assert good.break_even == pytest.approx(21 * ROUNDS / 3600 * 0.05 / good.saved.low)
    assert good.extra_a_label.low == pytest.approx(21 * ROUNDS / good.saved.high)
    assert good.extra_a_label.low < good.extra_a_label.mean < good.extra_a_label.high
    assert good.watt_hours_a_label.mean == pytest.approx(good.watt_hours / good.saved.mean)
    same = next(row for row in rows if (row.task, row.strategy) == ("one", "same"))
    assert same.extra_a_label.high == np.inf
    assert good.statement.startswith(
        "pays above $0.0001 a label: pays at $0.01, $0.1, $1, $10 a label"
    )


def test_no_label_saved_for_certain_is_no_break_even() -> None:
    price = find_break_even(100.0, Interval(5.0, -2.0, 9.0, 5), 0.05)
    assert np.isnan(price)
    assert (
        state_break_even(price, [1.0]) == "no label is shown to be saved: at no price does it pay"
    )
    assert state_break_even(20.0, [1.0, 10.0]).endswith("pays at none of the prices given")


def test_stopping_is_tried_on_every_curve(suite: BenchConfig, curves: list[Curve]) -> None:
    traces = trace_curves(curves)
    rows = backtest_stopping(traces, suite.analysis)
    assert [row.threshold for row in rows] == suite.analysis.gain_thresholds
    assert {row.curves for row in rows} == {len(curves)}
    saved = [row.saved.mean for row in rows]
    assert saved == sorted(saved)  # who asks more of a label stops earlier
    assert saved[0] < saved[-1] <= 0.5
    assert calibrate(traces, suite.analysis).predictions == sum(
        len(trace.forecasts) for trace in traces
    )


def test_the_files_of_a_suite(suite: BenchConfig, curves: list[Curve], tmp_path: Path) -> None:
    results = analyse(suite, curves, 31)
    write_results(suite, curves, results, tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert "30 of 31 runs finished" in page
    assert "5 pairs cannot give a p below 0.0625" in page
    assert "| all tasks | tiny | good |" in page
    assert "## Further comparisons" in page
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["curves"]) == 30
    rows = list(csv.DictReader(io.StringIO((tmp_path / "strategies.csv").read_text())))
    assert float(rows[1]["final_difference.low"]) > 0.08
    assert rows[1]["reach.labels.mean"]
    for name in ("curves", "differences"):
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "good" in "".join(root.itertext())
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_one_seed_gives_no_interval_and_no_claim(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, seeds=[1])
    curves = make_up(suite, score)
    results = analyse(suite, curves, len(curves))
    write_results(suite, curves, results, tmp_path / "out")
    assert {row.verdict for row in results.strategies} == {"baseline", "no difference shown"}
    page = (tmp_path / "out/results.md").read_text()
    assert "no interval, n = 1" in page


def test_a_suite_half_done_is_compared_on_the_pairs_there_are(
    suite: BenchConfig, curves: list[Curve]
) -> None:
    some = [curve for curve in curves if (curve.trial.strategy, curve.trial.seed) != ("random", 3)]
    found = {(row.task, row.strategy): row for row in compare_strategies(suite, some)}
    assert found["one", "good"].final_difference.count == 4
