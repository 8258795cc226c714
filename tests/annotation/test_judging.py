"""An annotator as judge: what is graded, what it costs, and what happens when a verdict or the
money is missing.
"""

import math
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider
from helpers.fakes.state import grade_of

from atgen_ray.annotation.judge import build_judges
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import RunPaused
from atgen_ray.evaluation import Resources, evaluate_predictions
from atgen_ray.evaluation.metrics.llm_judge import read_verdict
from atgen_ray.store.ledger import read_balance

ANSWERS = {"a": "Paris", "b": "Rome", "c": "Paris", "d": "[[refuse]]"}


def set_up(provider: FakeProvider, folder: Path, stopping: dict[str, Any] | None = None) -> Desk:
    """A run that is judged, and labelled, by the same model."""
    tree = dump_config(configure(provider, "openai", "sync", stopping))
    tree["evaluation"] |= {"metrics": ["llm_judge"], "judge": tree["annotator"]}
    return Desk(provider, folder, parse_config(tree), make_texts(2))


def judge(desk: Desk, answers: dict[str, str] = ANSWERS) -> Any:
    resources = Resources(judges=build_judges(desk.site()))
    references = {id_: ["Paris"] for id_ in answers}
    sources = dict.fromkeys(answers, "Capital of France?")
    return evaluate_predictions(
        answers, references, ["llm_judge"], 100, sources=sources, resources=resources
    )


def test_answers_are_graded_once_and_paid_from_the_run_s_budget(
    provider: FakeProvider, tmp_path: Path
) -> None:
    desk = set_up(provider, tmp_path)
    labels, _ = desk.annotate()
    result = judge(desk)
    graded = {bill.example for bill in provider.bills()} - set(desk.texts.values())
    right = {
        example.split("<answer>\n")[1].split("\n")[0]: read_verdict(grade_of(example))
        for example in graded
    }
    scores = dict(zip("abcd", result.scores["llm_judge"].to_pylist(), strict=True))
    assert scores == {"a": right["Paris"], "b": right["Rome"], "c": right["Paris"], "d": None}
    assert result.metrics["llm_judge"]["count"] == 3
    asked = len(provider.bills())
    assert asked == len(desk.texts) + 2 + 2, (
        "one answer stands twice; the refused verdict was asked for again"
    )
    paid = sum(bill.prompt + bill.output for bill in provider.bills()) / 1000
    assert read_balance(desk.journal, "paid").paid == pytest.approx(paid)
    # After a kill the verdicts are in the book, and the labels are what they were.
    assert judge(desk).scores.equals(result.scores)
    assert desk.annotate()[0] == labels
    assert len(provider.bills()) == asked


def test_each_judge_of_a_panel_is_asked_and_paid_once_though_two_are_one_model(
    provider: FakeProvider, tmp_path: Path
) -> None:
    tree = dump_config(configure(provider, "openai", "sync"))
    judges = [tree["annotator"] | {"max_output_tokens": n} for n in (20, 19, 18)]
    tree["evaluation"] |= {"metrics": ["llm_judge", "judge_spread"], "judges": judges}
    desk = Desk(provider, tmp_path, parse_config(tree), make_texts(2))
    answers = {"a": "Paris", "b": "Rome"}
    resources = Resources(judges=build_judges(desk.site()))
    references = {id_: ["Paris"] for id_ in answers}
    names = ["llm_judge", "judge_spread"]
    result = evaluate_predictions(answers, references, names, 100, resources=resources)
    assert len(provider.bills()) == 3 * len(answers)
    assert result.scores["judge_spread"].to_pylist() == [0, 0]  # the same model, the same grade
    asked = {bill.example: read_verdict(grade_of(bill.example)) for bill in provider.bills()}
    assert sorted(result.scores["llm_judge"].to_pylist()) == pytest.approx(sorted(asked.values()))


@pytest.mark.parametrize("budget", ["dollars", "dollars_per_round"])
@pytest.mark.parametrize("dollars", [1.0, 0.002])
def test_a_judge_without_money_pauses_the_run(
    provider: FakeProvider, tmp_path: Path, budget: str, dollars: float
) -> None:
    desk = set_up(provider, tmp_path, {budget: dollars})
    many = {f"m{index}": f"answer {index}" for index in range(12)}
    why = rf"stopping\.{budget} is {dollars}, expected at least .* the next verdict can cost"
    with pytest.raises(
        RunPaused,
        match=rf"the budget keeps evaluation\.judge from grading \d+ of 15 answers: {why}",
    ):
        judge(desk, ANSWERS | many)
    balance = read_balance(desk.journal, "paid")
    assert balance.paid + balance.held <= dollars


def test_nobody_is_asked_where_there_is_no_judge(provider: FakeProvider, tmp_path: Path) -> None:
    desk = Desk(provider, tmp_path, configure(provider, "openai", "sync"), make_texts(1))
    assert build_judges(desk.site()) == []
    assert math.isnan(read_verdict(""))
