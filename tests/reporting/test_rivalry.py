"""Whether tuning was worth it: the sentence, the table and the lines of the curve."""

import re
from pathlib import Path

import pytest
from helpers.report_page import Page
from helpers.report_runs import MadeUp, write_run

from atgen_ray.reporting import collect_run, render_page
from atgen_ray.reporting.rivals import describe_rivalry, judge_tuning
from atgen_ray.reporting.run_view import Estimate, RivalView
from atgen_ray.runs.console import rivals_table
from atgen_ray.store.run_folder import RunFolder

TUNED = Estimate(0.62, 0.58, 0.66, 100)


def make_rival(
    score: float, low: float, high: float, count: int = 100, metric: str = "rougeL"
) -> RivalView:
    difference = Estimate((low + high) / 2, low, high, count)
    return RivalView(
        "few-shot (5)", {metric: Estimate(score, score, score, count)}, difference=difference
    )


@pytest.mark.parametrize(
    ("rival", "finding", "said"),
    [
        (
            make_rival(0.51, 0.06, 0.16),
            "worth it",
            "Fine-tuning with 96 labels scores 0.62 (0.58 to 0.66) by ROUGE-L; the best rival, "
            "few-shot (5), 0.51: worth it. On the same 100 examples the difference is +0.110 "
            "(95 % interval +0.060 to +0.160).",
        ),
        (make_rival(0.60, -0.02, 0.06), "not shown", "0.60: not shown to be worth it. On the"),
        (make_rival(0.70, -0.12, -0.04), "not worth it", "0.70: not worth it. On the same 100"),
        (make_rival(0.51, 0.06, 0.16, 9), "not shown", "9 examples are too few to tell."),
    ],
)
def test_what_is_said_follows_the_whole_interval(rival: RivalView, finding: str, said: str) -> None:
    worse = RivalView("zero-shot", {"rougeL": Estimate(0.2, 0.1, 0.3, 100)})
    found, text = judge_tuning(96, TUNED, [worse, rival], "rougeL")
    assert found == finding
    assert said in text


def test_lower_may_be_better_and_a_metric_may_have_no_direction() -> None:
    near = make_rival(0.9, -0.4, -0.2, metric="nll")
    far = RivalView("zero-shot", {"nll": Estimate(2.0, 1.9, 2.1, 100)})
    found, text = judge_tuning(10, TUNED, [far, near], "nll")
    assert found == "worth it"
    assert "the best rival, few-shot (5), 0.90" in text
    assert judge_tuning(10, TUNED, [make_rival(3, 1, 2, metric="words")], "words") == ("", "")
    assert judge_tuning(10, TUNED, [make_rival(3, 1, 2)], "exact_match") == ("", "")


def add_rival(
    folder: RunFolder, round: int, key: str, title: str, source: int, **more: object
) -> None:
    """Give the run a rival that answers as the model after the round `source`."""
    rows = folder.read_jsonl(f"rounds/{source:03d}/predictions.jsonl")
    metrics = folder.read_json("metrics.json")[source]["metrics"]
    facts = {"rival": key, "title": title, "split": "test", "labels": 4 * round}
    facts |= {"metrics": metrics, "absent": {}, "dollars": 0.0, "dollars_per_thousand": 0.0}
    folder.write_jsonl(f"rounds/{round:03d}/rivals/{key}/predictions.jsonl", rows)
    folder.write_json(f"rounds/{round:03d}/rivals/{key}/rival.json", facts | more)


def test_the_report_begins_with_whether_tuning_was_worth_it(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "demo", MadeUp(lift=0.2, test=30))
    add_rival(folder, 1, "knn", "nearest label", 0, absent={"nll": "it gives none"})
    add_rival(folder, 3, "knn", "nearest label", 1, absent={"nll": "it gives none"})
    add_rival(folder, 3, "larger-1", "big, zero-shot", 0, dollars_per_thousand=2.5)
    add_rival(folder, 3, "few_shot-5.parts", "unfinished", 0)
    folder.remove("rounds/003/rivals/few_shot-5.parts/rival.json")
    html = render_page([collect_run(folder)])
    page = Page(html)
    said = "Fine-tuning with 12 labels scores"
    assert page.text().split("demo", 2)[1].index(said) < 50, "it is the first line"
    assert page.text().index(said) < page.text().index("ROUGE-L 0.")
    assert "the best rival, nearest label," in page.text()
    assert ": worth it. On the same 30 examples" in page.text()
    table = page.text("A-rivals")
    assert table.index("zero-shot") < table.index("nearest label") < table.index("big, zero-shot")
    assert table.count("nearest label") == 1, "the newest of each"
    assert "$2.50" in table
    assert "no nll: it gives none" in table
    assert re.search(r"rivals: nearest label 0\.\d+, big, zero-shot 0\.\d+", html), "the curve"
    plain = describe_rivalry(folder, folder.read_json("metrics.json"), {})
    assert plain["finding"] == "worth it"
    assert [each["name"] for each in plain["rivals"]] == [
        "zero-shot",
        "nearest label",
        "big, zero-shot",
    ]
    assert rivals_table(plain, 80).row_count == 3


def test_a_run_that_is_not_better_than_before_does_not_claim_it(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "demo", MadeUp(lift=0.0, test=30))
    add_rival(folder, 3, "knn", "nearest label", 3)
    found = describe_rivalry(folder, folder.read_json("metrics.json"), {})
    assert found["finding"] == "not shown"
    assert "not shown to be worth it" in found["said"]


def test_without_a_tuned_model_or_a_score_nothing_is_said(tmp_path: Path) -> None:
    untuned = write_run(str(tmp_path), "untuned", MadeUp(rounds=0))
    assert describe_rivalry(untuned, untuned.read_json("metrics.json"), {}) == {}
    blind = write_run(str(tmp_path), "blind", MadeUp(test=0))
    assert describe_rivalry(blind, blind.read_json("metrics.json"), {}) == {}
    assert "Fine-tuning with" not in Page(render_page([collect_run(blind)])).text()
