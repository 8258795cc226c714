"""The dry run: how many labels, rows and optimiser steps a configuration means, and how long they
take.
"""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from helpers.command_line import SMALLEST

from atgen_ray.annotation.cost_estimate import estimate_annotation, estimate_judge, round_dollars
from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.llm.request_records import Settlement
from atgen_ray.annotation.request import AnnotationRequest, Prompt
from atgen_ray.config import RunConfig, StoppingConfig
from atgen_ray.runs.estimate import estimate_labels, estimate_minutes, estimate_work
from atgen_ray.store.journal import open_journal
from atgen_ray.store.ledger import Ledger
from atgen_ray.store.owner import ProcessIdentity


def configure(**sections: Any) -> RunConfig:
    """The smallest configuration with some sections of its own."""
    return RunConfig.model_validate(SMALLEST | sections)


@pytest.mark.parametrize(
    ("selection", "stopping", "selectable", "labels"),
    [
        ({"count": 10}, {"rounds": 3}, 100, [10, 20, 30]),
        ({"count": 10}, {"rounds": 9}, 25, [10, 20, 25]),  # until the pool is exhausted
        (
            {"count": 10},
            {"rounds": 9, "labels": 25},
            100,
            [10, 20, 25],
        ),  # until the budget is spent
        ({"count": 10}, {"rounds": 9, "labels": 20}, 100, [10, 20]),
        ({"count": 10}, {"rounds": 9, "labels": 99}, 12, [10, 12]),
        ({"count": 10, "first": {"count": 3}}, {"rounds": 3}, 100, [3, 13, 23]),
        ({"count": 3, "first": {"count": 10}}, {"rounds": 2}, 100, [10, 13]),
        ({"count": 10}, {"rounds": 3}, 0, []),  # no round without an example
        ({"count": 10}, {"rounds": 3}, 1, [1]),
    ],
)
def test_labels_by_round(
    selection: dict[str, Any], stopping: dict[str, Any], selectable: int, labels: list[int]
) -> None:
    assert estimate_labels(configure(selection=selection, stopping=stopping), selectable) == labels


def test_people_get_all_examples_in_one_round_unless_they_ask_for_rounds() -> None:
    sections = {"selection": {"count": 10, "first": {"count": 4}}, "stopping": {"rounds": 3}}
    assert estimate_labels(configure(annotator={"type": "human"}, **sections), 100) == [24]
    assert estimate_labels(
        configure(annotator={"type": "human", "mode": "rounds"}, **sections), 100
    ) == [4, 14, 24]


def test_random_selection_generates_and_embeds_nothing() -> None:
    config = configure(selection={"strategy": "random"}, evaluation={"zero_shot": False})
    work = estimate_work(config, pool=100, selectable=90, test=0, labels=[10, 20])
    assert work == {"embedding": 0, "generation": 0, "training": 2 * 3 + 3 * 3, "evaluation": 0}


def test_every_round_generates_for_what_is_left_and_evaluates_the_test_set() -> None:
    config = configure(selection={"strategy": "huds", "count": 10})
    work = estimate_work(config, pool=100, selectable=90, test=7, labels=[10, 20, 30])
    assert work["embedding"] == 100  # once
    assert work["generation"] == 90 + 80 + 70
    assert work["evaluation"] == 7 * 4  # with the untuned model


def test_a_few_shot_start_is_evaluated_too_and_every_answer_is_judged() -> None:
    judge = {
        "type": "model",
        "model": {"id": "judge"},
        "votes": 3,
        "temperature": 0.7,
        "price_per_label": 0.01,
    }
    config = configure(selection={"strategy": "random"}, evaluation={"few_shot": 4, "judge": judge})
    assert (
        estimate_work(config, pool=100, selectable=90, test=7, labels=[10])["evaluation"] == 7 * 3
    )
    assert estimate_judge(config, 21, ["a text"]) == {"judge_requests": 63, "judge_dollars": 0.63}
    assert estimate_judge(configure(), 21, ["a text"]) == {}


def test_candidates_bound_what_is_generated() -> None:
    config = configure(selection={"strategy": "huds", "candidates": 85})
    assert estimate_work(config, 100, 90, 0, [10, 20])["generation"] == 85 + 80


def test_a_shortlist_bounds_it_further_and_is_chosen_by_embeddings() -> None:
    config = configure(selection={"strategy": "entropy", "shortlist": {"count": 30}})
    work = estimate_work(config, 100, 90, 0, [10, 20])
    assert (work["generation"], work["embedding"]) == (60, 100)
    config = configure(selection={"strategy": "random", "shortlist": {"count": 30}})
    assert estimate_work(config, 100, 90, 0, [10])["embedding"] == 0


def test_weighed_labels_need_embeddings() -> None:
    config = configure(selection={"strategy": "random"}, training={"reweight": 5.0})
    assert estimate_work(config, 100, 90, 0, [10])["embedding"] == 100


def test_the_first_round_may_need_less() -> None:
    first = {"strategy": "random", "count": 5}
    config = configure(selection={"strategy": "huds", "first": first})
    work = estimate_work(config, 100, 90, 0, [5, 15])
    assert (work["generation"], work["embedding"]) == (85, 100)
    # It embeds for the rounds that it may come to.
    assert estimate_work(config, 100, 90, 0, [5])["embedding"] == 100
    config = configure(selection={"strategy": "random", "first": {"strategy": "huds"}})
    assert estimate_work(config, 100, 90, 0, [5, 15])["generation"] == 90


def test_the_needs_are_those_of_the_parameters() -> None:
    for space, embedding, generation in (("embeddings", 100, 0), ("states", 0, 90)):
        config = configure(selection={"strategy": "k_center", "parameters": {"space": space}})
        work = estimate_work(config, 100, 90, 0, [5])
        assert (work["embedding"], work["generation"]) == (embedding, generation)


def test_a_dev_split_is_not_trained_on_but_evaluated() -> None:
    config = configure(
        selection={"strategy": "random"},
        evaluation={"dev_fraction": 0.25},
        training={"batch_size": 8, "epochs": 2},
    )
    work = estimate_work(config, 100, 90, 5, [32, 64])
    assert work["training"] == 3 * 2 + 6 * 2
    assert work["evaluation"] == 5 + (5 + 8) + (5 + 16)


@pytest.mark.parametrize(
    ("labels", "batch", "epochs", "steps"),
    [(8, 8, 1, 1), (9, 8, 1, 2), (1, 8, 3, 3), (9, 8, 0.5, 1), (17, 8, 1.5, 5), (16, 4, 2.5, 10)],
)
def test_optimizer_steps(labels: int, batch: int, epochs: float, steps: int) -> None:
    config = configure(
        selection={"strategy": "random"}, training={"batch_size": batch, "epochs": epochs}
    )
    assert estimate_work(config, 100, 90, 0, [labels])["training"] == steps


def test_minutes_come_from_earlier_runs_of_the_same_model(tmp_path: Path) -> None:
    journal = open_journal(str(tmp_path))

    def enter(model: str, seconds: dict[str, tuple[int, float]]) -> None:
        run = journal.create_run(f"plan-{len(journal.runs())}", {"model": {"id": model}}, "").name
        lease = journal.acquire(run, ProcessIdentity("a"), 60)
        for round, (step, (rows, took)) in enumerate(seconds.items()):
            journal.append(lease, "step", round, step, {"rows": rows}, took)

    work = {"embedding": 60, "generation": 120, "training": 0, "evaluation": 30}
    assert estimate_minutes(journal, "model-a", work) is None
    enter("model-b", {"embedding": (1, 1.0), "generation": (1, 1.0), "evaluation": (1, 1.0)})
    enter("model-a", {"embedding": (10, 10.0), "generation": (10, 20.0)})
    assert estimate_minutes(journal, "model-a", work) is None  # never evaluated yet
    enter(
        "model-a", {"evaluation": (10, 40.0), "generation": (0, 3.0)}
    )  # a step found done has no rows
    assert estimate_minutes(journal, "model-a", work) == (60 * 1 + 120 * 2 + 30 * 4) / 60
    enter("model-a", {"generation": (10, 30.0)})
    enter("model-a", {"generation": (10, 900.0)})
    assert (
        estimate_minutes(journal, "model-a", work) == (60 * 1 + 120 * 3 + 30 * 4) / 60
    )  # the median
    assert estimate_minutes(journal, "model-a", work | {"training": 1}) is None
    assert estimate_minutes(journal, "model-c", dict.fromkeys(work, 0)) == 0


def write_tokenizer(folder: Path) -> None:
    """A tokenizer whose tokens are words."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def test_dollars_are_expected_from_worked_examples_and_then_from_answers(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    annotator = {
        "type": "openai",
        "model": "m",
        "guidelines": "Label it.",
        "price": {"input": 1.0, "output": 10.0, "batch_discount": 0.5},
        "tokenizer": str(tmp_path),
        "max_output_tokens": 512,
    }
    worked = [{"input": "a text", "output": "five words of a label"}]
    config = configure(annotator=annotator | {"examples": worked})
    journal = open_journal(str(tmp_path))
    plan = estimate_annotation(config, 100, ["some text"], journal)
    assert plan["dollars_assume"].startswith("answers have 5 tokens, the mean of the worked")
    assert plan["annotator_output_tokens"] == 500
    assert plan["annotator_output_tokens_at_most"] == 51_200
    spent = (plan["annotator_prompt_tokens"] + 10 * 500) / 1e6
    assert plan["dollars"] == plan["dollars_synchronous"] == pytest.approx(spent, rel=1e-3)
    assert plan["dollars_batch"] == pytest.approx(spent / 2, rel=1e-3)
    assert 0.01 < plan["dollars"] < plan["dollars_at_most"] / 10
    unknown = estimate_annotation(configure(annotator=annotator), 1, ["some text"], journal)
    assert "answers have 64 tokens, a guess before the first" in unknown["dollars_assume"]
    assert 0 < unknown["dollars"] < 0.001  # not rounded to cents

    journal.create_run("earlier", config.model_dump(mode="json"), "")
    lease = journal.acquire("earlier", ProcessIdentity("a"), 60)
    log = RequestLog(journal, lease, Ledger("earlier", StoppingConfig()), "openai/m", 1)
    asked = [AnnotationRequest(f"e{at}", 0, 0, Prompt("", (("user", "x"),))) for at in range(2)]
    [shard], _ = log.intend([[(request, 0) for request in asked]], lambda request: 1)
    answers = zip(shard.attempts, (10, 20), strict=True)
    log.settle(
        {
            shard.hash: [
                Settlement(at.custom_id, "answered", 1, {}, None, 300, n) for at, n in answers
            ]
        }
    )
    plan = estimate_annotation(config, 100, ["some text"], journal)
    assert plan["dollars"] == pytest.approx((100 * 300 + 10 * 100 * 15) / 1e6)
    assert plan["dollars_assume"] == (
        "prompts have 300 tokens and answers 15, as 2 earlier answers to the same questions"
    )
    other = configure(annotator=annotator | {"examples": worked, "guidelines": "Other."})
    assert "worked" in estimate_annotation(other, 1, ["some text"], journal)["dollars_assume"]


def test_the_most_dollars_hold_all_prompts_that_enter_the_provider_s_cache(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)

    def estimate(words: int, written: float) -> float:
        config = configure(
            annotator={
                "type": "openai",
                "model": "m",
                "guidelines": "word " * words,
                "tokenizer": str(tmp_path),
                "price": {"input": 1.0, "output": 10.0, "written": written},
            }
        )
        plan = estimate_annotation(config, 100, ["some text"], open_journal(str(tmp_path)))
        return float(plan["dollars_at_most"])

    prompts = 300 * 2000 / 1e6  # with repairs and probes, at a dollar for a million tokens
    assert estimate(2000, 2.0) - estimate(2000, 1.0) == pytest.approx(prompts, rel=0.2)
    assert estimate(1, 2.0) == estimate(1, 1.0) > 0  # too short to be cached


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [(0.0, 0.0), (0.00012345, 0.0001234), (1.23456, 1.235), (12345.678, 12345.68)],
)
def test_dollars_have_four_digits_or_cents(dollars: float, shown: float) -> None:
    assert round_dollars(dollars) == pytest.approx(shown)


@pytest.mark.parametrize(
    ("first", "later", "rounds", "embedded"),
    [
        ("random", "k_center", 1, 0),  # the one round needs none
        ("random", "k_center", 2, 500),
        ("k_center", "random", 1, 500),
        ("random", "random", 2, 0),
    ],
)
def test_a_plan_embeds_what_the_run_embeds(
    first: str, later: str, rounds: int, embedded: int
) -> None:
    config = configure(
        selection={"strategy": later, "count": 10, "first": {"strategy": first}},
        stopping={"rounds": rounds},
    )
    assert config.embeds == bool(embedded)
    # Also where a budget ends the run in its first round.
    for labels in ([10], [10, 20]):
        assert estimate_work(config, 500, 500, 0, labels)["embedding"] == embedded
