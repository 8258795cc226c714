"""A budget that is spent: what is paid is kept, nothing is paid twice, and one line says what a
label costs.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.annotation_desk import MODES, Desk, configure, make_texts
from helpers.annotation_round import Round
from helpers.fakes.provider import FakeProvider
from helpers.fakes.state import label_of
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.cost_estimate import check_budget
from atgen_ray.annotation.registry import build_annotator
from atgen_ray.config import RunConfig, list_annotators
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import BudgetSpent, UserError
from atgen_ray.core.money import NANO
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.tables import ledger

TEXTS = make_texts(12)
BUDGETS = ["dollars", "dollars_per_round"]


def measure_first_answers(
    provider: FakeProvider, folder: Path, config: RunConfig, texts: dict[str, str]
) -> Any:
    """What the first answers to `texts` come to in billionths of a dollar, and the smallest worst
    case of one.
    """
    folder.mkdir()
    desk = Desk(provider, folder, config, texts)
    _, first = list_annotators(config.annotator)[0]
    unrepaired = first.model_copy(update={"repair": False})
    build_annotator(unrepaired, desk.site()).annotate_batch([*texts], [*texts.values()])
    with desk.journal.database.reading() as connection:
        rows = connection.execute(sa.select(ledger.c.paid, ledger.c.held)).all()
    provider.reset()
    return sum(row.paid for row in rows), min(row.held for row in rows)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_a_budget_below_the_price_of_a_label_sends_nothing(
    provider: FakeProvider, tmp_path: Path, kind: str, mode: str, budget: str
) -> None:
    desk = Desk(provider, tmp_path, configure(provider, kind, mode, {budget: 0.002}), TEXTS)
    for _ in range(2):  # the same command again
        annotator = desk.annotator()
        assert annotator.annotate_batch([*TEXTS], [*TEXTS.values()]) == ([], [])
    assert provider.bills() == []
    events = [event.payload for event in desk.journal.events("paid") if event.kind == "budget"]
    limit = "run" if budget == "dollars" else "round"
    assert events == [{"limit": limit, "dollars": 0.002, "left": 12}] * 2


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_run_says_what_a_label_costs_and_goes_on_with_that(
    provider: FakeProvider, tmp_path: Path, budget: str
) -> None:
    run = Round(tmp_path, configure(provider, "openai", "sync", {budget: 0.002}), TEXTS)
    said = []
    for _ in range(2):
        with pytest.raises(UserError) as error:
            run.annotate()
        said.append(str(error.value))
    assert said[0] == said[1]
    assert said[0].startswith(
        f"no label can be bought in round 1: stopping.{budget} is 0.002, expected at least 0."
    )
    assert ": 0 is spent, and the next label can cost 0." in said[0]
    assert provider.bills() == []
    enough: dict[str, Any] = {budget: float(said[0].split("at least ")[1].split(":")[0])}
    run.annotate(**enough)
    assert len(run.labels()) >= 1
    assert len(provider.bills()) == len(run.labels())


@pytest.mark.parametrize("budget", BUDGETS)
def test_answers_that_nobody_can_pay_to_mend_wait_for_money(
    provider: FakeProvider, tmp_path: Path, budget: str
) -> None:
    texts = {id_: f"{text} [[refuse-once]]" for id_, text in TEXTS.items()}
    config = configure(provider, "openai", "sync")
    paid, worst = measure_first_answers(provider, tmp_path / "measured", config, texts)
    run = Round(tmp_path, config, texts)
    for _ in range(2):
        with pytest.raises(
            UserError, match=rf"stopping\.{budget} is .* is spent, and the next label can cost"
        ):
            run.annotate(**{budget: (paid + worst) / NANO})
        assert Counter(bill.example for bill in provider.bills()) == dict.fromkeys(
            texts.values(), 1
        )
    assert run.journal.dead_letters("paid") == []
    plenty: dict[str, Any] = {budget: 1000.0}
    run.annotate(**plenty)
    assert run.labels() == {id_: label_of(text) for id_, text in texts.items()}
    assert Counter(bill.example for bill in provider.bills()) == dict.fromkeys(texts.values(), 2)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("then", ["anthropic", "human"])
def test_a_router_whose_first_annotator_spends_all_keeps_what_is_sure(
    provider: FakeProvider, tmp_path: Path, then: str, budget: str
) -> None:
    texts = make_texts(2) | {f"w{index}": f"example {index} [[waver]]" for index in range(11)}
    tree = dump_config(configure(provider, "openai", "sync", votes=3, temperature=0.7))
    second = (
        {"type": "human", "price_per_label": 9.0}
        if then == "human"
        else configure(provider, then, "sync")
    )
    second = second if isinstance(second, dict) else dump_config(second)["annotator"]
    tree["annotator"] = {"type": "router", "first": tree["annotator"], "then": second}
    config = parse_config(tree)
    paid, worst = measure_first_answers(provider, tmp_path / "measured", config, texts)
    run = Round(tmp_path, config, texts)
    for _ in range(2):
        run.annotate(**{budget: (paid + worst - NANO // 1000) / NANO})
        assert run.labels() == {id_: label_of(texts[id_]) for id_ in make_texts(2)}
        assert Counter(bill.example for bill in provider.bills()) == dict.fromkeys(
            texts.values(), 3
        )
    assert run.journal.dead_letters("paid") == []


def test_a_round_that_buys_nothing_ends_the_run_with_what_it_has(tmp_path: Path) -> None:
    tree = {"data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}, "name": "paid"}
    tree |= {
        "annotator": {"type": "dataset", "price_per_label": 0.57},
        "stopping": {"dollars": 0.57 * 3},
    }
    run = Round(tmp_path, parse_config(tree), TEXTS)
    first, second = list(TEXTS)[:3], list(TEXTS)[3:]
    run.annotate(ids=first)
    assert list(run.labels()) == first, (
        "a budget of three labels buys three, not two and a rest of the last bit"
    )
    for _ in range(2):
        with pytest.raises(BudgetSpent):
            run.annotate(2, second)
    assert list(run.labels()) == first
    run.annotate(2, second, dollars=100.0)
    assert list(run.labels()) == [*first, *second]
    assert read_balance(run.journal, "paid").paid == pytest.approx(0.57 * 12)


@pytest.mark.parametrize("budget", BUDGETS)
def test_people_are_asked_nothing_that_cannot_be_paid(tmp_path: Path, budget: str) -> None:
    tree = {"data": {"pool": "p.jsonl"}, "model": {"id": "m"}, "name": "paid"}
    tree |= {
        "annotator": {"type": "human", "price_per_label": 0.5, "overlap": 2},
        "stopping": {budget: 0.9},
    }
    run = Round(tmp_path, parse_config(tree), TEXTS)
    with pytest.raises(
        UserError, match=rf"stopping\.{budget} is 0\.9, expected at least 1: 0 is spent"
    ):
        run.annotate()


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("kind", ["dataset", "human", "model", "openai"])
def test_a_budget_below_one_label_is_told_before_anything_is_done(
    provider: FakeProvider, budget: str, kind: str
) -> None:
    priced = {"type": kind, "price_per_label": 0.25}
    annotators = {
        "dataset": priced,
        "human": priced | {"overlap": 2},
        "model": priced
        | {"votes": 2, "temperature": 0.7, "guidelines": "Label it.", "model": {"id": "m"}},
        "openai": dump_config(configure(provider, "openai", "sync"))["annotator"],
    }
    tree = {
        "data": {"pool": "p.jsonl", "references": "a"},
        "model": {"id": "m"},
        "annotator": annotators[kind],
    }
    with pytest.raises(
        UserError, match=rf"stopping\.{budget} is 0\.2, expected at least (0\.\d+), which one label"
    ):
        check_budget(parse_config(tree | {"stopping": {budget: 0.2}}), ["a longer text", "text"])
    check_budget(parse_config(tree | {"stopping": {budget: 0.9}}), ["text"])
    check_budget(parse_config(tree), ["text"])
    check_budget(parse_config(tree | {"stopping": {budget: 0.2}}), [])


def test_tasks_that_are_answered_are_kept_when_the_rest_cannot_be_paid(tmp_path: Path) -> None:
    desk = HumanDesk(
        Journal(f"sqlite:///{tmp_path / 'atgen.db'}"), 3, {"dollars": 1.0}, price_per_label=0.5
    )
    assert desk.publish_tasks() == 2
    for id_ in ("e00", "e01"):
        desk.queue("ann").lease()
        desk.queue("ann").answer(f"key-{id_}", id_, "submitted", "a label")
    labels, dead = desk.round().collect_labels()
    assert ([label.id for label in labels], dead) == (["e00", "e01"], [])
    assert desk.publish_tasks() == 0
