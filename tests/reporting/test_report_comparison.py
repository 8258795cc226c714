"""Several runs compared."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers.report_page import Page
from helpers.report_runs import MadeUp, write_run

from atgen_ray.reporting import RunView, collect_run, render_page, write_report
from atgen_ray.reporting.comparison import (
    _measure_reach,
    bootstrap_difference,
    compare_views,
    labels_to_reach,
)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> list[RunView]:
    storage = str(tmp_path_factory.mktemp("storage"))
    made = [MadeUp(strategy="random", lift=0.01), MadeUp(strategy="huds", lift=0.03)]
    return [
        collect_run(write_run(storage, f"with-{one.strategy}", one), stopped="done") for one in made
    ]


def test_comparison_comes_first_and_every_run_follows(views: list[RunView], tmp_path: Path) -> None:
    path = write_report(views, tmp_path / "report.html")
    page = Page(path.read_text())
    text = page.text()
    assert (
        text.index("2 runs compared")
        < text.index("Run against run")
        < text.index("B with-huds ROUGE-L 0.07 →")
    )
    for letter in "AB":
        assert "strategy" in page.text(f"{letter}-config")
    assert "A with-random random 0.0" in page.text("runs")
    assert "selection.strategy random huds" in page.text("settings")
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    over = [
        plot["aria-label"]
        for plot in page.find("svg")
        if (plot["aria-label"] or "").startswith("ROUGE-L over")
    ]
    assert len(over) == 3
    assert all("A from" in label and "B from" in label for label in over if label)


def test_difference_is_that_of_the_last_scores(views: list[RunView]) -> None:
    pair = compare_views(views).pairs[0]
    first, second = (
        [run.last_scores["rougeL"][id] for id in sorted(run.last_scores["rougeL"])] for run in views
    )
    assert pair.difference is not None
    assert pair.difference.mean == pytest.approx(np.mean(second) - np.mean(first))
    assert pair.difference.low > 0
    assert pair.difference.count == 12
    page = Page(render_page(views))
    assert (
        f"+{pair.difference.mean:.3f} +{pair.difference.low:.3f} to +{pair.difference.high:.3f}"
        in page.text("differences")
    )
    assert "B scored higher on these test examples." in page.text("differences")
    assert "A did not reach" in page.text("differences")
    assert "B reached" in page.text("differences")


def test_one_seed_each_is_no_claim(views: list[RunView]) -> None:
    assert "One seed each, so no claim" in Page(render_page(views)).text()


def test_seeds_of_one_method_are_taken_together(tmp_path: Path) -> None:
    made = [
        MadeUp(strategy=name, seed=seed, rounds=1)
        for name in ("random", "huds")
        for seed in (1, 2, 3)
    ]
    runs = [
        collect_run(write_run(str(tmp_path), f"run-{index}", one)) for index, one in enumerate(made)
    ]
    comparison = compare_views(runs)
    assert [group.letters for group in comparison.groups] == [["A", "B", "C"], ["D", "E", "F"]]
    assert len(comparison.pairs) == 15
    page = Page(render_page(runs))
    assert "One seed each" not in page.text()
    assert "D E F 3" in page.text("differences")
    assert "seed 1 2 3 1 2 3" in page.text("settings")


def test_many_runs_are_compared_with_the_first_only(views: list[RunView]) -> None:
    runs = [dataclasses.replace(views[index % 2], name=f"run-{index}") for index in range(8)]
    page = render_page(runs)
    assert len(compare_views(runs).pairs) == 7
    assert "each is compared with A only" in Page(page).text("differences")
    assert len(page) < 3_000_000


def test_a_sweep_is_compared_without_a_section_for_every_run(views: list[RunView]) -> None:
    runs = [dataclasses.replace(views[index % 2], name=f"run-{index}") for index in range(30)]
    html = render_page(runs)
    page = Page(html)
    assert "AD run-29" in page.text("runs")
    assert "the page holds their comparison alone" in page.text("runs")
    assert "What was selected and why" not in page.text()
    assert len(html) < 3_000_000


def test_runs_without_a_common_test_example_are_not_paired(views: list[RunView]) -> None:
    moved = {
        metric: {f"other-{id}": score for id, score in scores.items()}
        for metric, scores in views[1].last_scores.items()
    }
    other = dataclasses.replace(views[1], last_scores=moved)
    assert compare_views([views[0], other]).pairs[0].difference is None
    assert "share no scored test example" in Page(render_page([views[0], other])).text(
        "differences"
    )


def test_runs_that_have_not_begun_can_be_compared(views: list[RunView], tmp_path: Path) -> None:
    fresh = dataclasses.replace(
        views[1], rounds=[], metric=None, first_scores={}, last_scores={}, examples=[], stopped=None
    )
    page = Page(write_report([views[0], fresh], tmp_path / "report.html").read_text())
    assert "No metric in common" in page.text()
    assert "1 of 2 runs finished" in page.text()


@pytest.mark.parametrize(
    ("target", "labels"), [(0.1, 0), (0.2, 5), (0.3, 10), (0.35, 15), (0.4, 20), (0.41, None)]
)
def test_labels_to_a_score_lie_on_straight_lines(target: float, labels: float | None) -> None:
    reached = labels_to_reach([(0, 0.1), (10, 0.3), (20, 0.4)], target)
    assert reached is None if labels is None else reached == pytest.approx(labels)


def test_the_first_crossing_counts_when_a_curve_falls_again() -> None:
    assert labels_to_reach([(0, 0.1), (10, 0.3), (20, 0.2), (30, 0.5)], 0.25) == pytest.approx(7.5)
    assert labels_to_reach([], 0.1) is None


def test_interval_covers_the_difference_and_not_the_order_of_ids() -> None:
    rng = np.random.default_rng(0)
    first = {f"id-{row}": float(value) for row, value in enumerate(rng.normal(size=200))}
    second = {id: value + 0.5 + float(rng.normal() / 10) for id, value in first.items()}
    found = bootstrap_difference(first, second)
    assert found is not None
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.05
    assert bootstrap_difference(dict(reversed(first.items())), second) == found
    assert bootstrap_difference(first, {}) is None
    same = bootstrap_difference(first, first)
    assert same is not None
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_a_loss_is_reached_from_above() -> None:
    first, second = [(0.0, 3.0), (10.0, 2.0), (20.0, 1.0)], [(0.0, 3.0), (20.0, 2.0)]
    assert _measure_reach("A", first, second, "nll").labels == 10
    assert _measure_reach("B", second, first, "nll").labels is None
    assert _measure_reach("A", first, second, "rougeL").labels == 0
