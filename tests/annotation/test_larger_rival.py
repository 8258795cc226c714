"""A larger model as rival: it is asked once, from the run's budget, and its answers are no
labels.
"""

from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider

from atgen_ray.annotation.asked_models import ask_larger
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.config.rivals import LargerRival
from atgen_ray.core.errors import RunPaused
from atgen_ray.store.ledger import read_balance

KEY = "evaluation.rivals.0.model"


def set_up(provider: FakeProvider, folder: Path, stopping: dict[str, Any] | None = None) -> Desk:
    """A run that is labelled by the same model as its rival."""
    tree = dump_config(configure(provider, "openai", "sync", stopping))
    tree["evaluation"]["rivals"] = [{"type": "larger", "model": tree["annotator"]}]
    return Desk(provider, folder, parse_config(tree), make_texts(2))


def find_rival(desk: Desk) -> LargerRival:
    rival = desk.config.evaluation.rivals[0]
    assert isinstance(rival, LargerRival)
    return rival


def test_a_larger_model_is_asked_once_and_from_the_budget(
    provider: FakeProvider, tmp_path: Path
) -> None:
    desk = set_up(provider, tmp_path)
    labels, _ = desk.annotate()
    before = len(provider.bills())
    paid_before = read_balance(desk.journal, "paid").paid
    # The text of a label is asked again: the rival is another question.
    texts = {"t1": next(iter(desk.texts.values())), "t2": "Who wrote it?", "t3": "Who wrote it?"}
    found = ask_larger(find_rival(desk), desk.site(), KEY, texts)
    assert found.predictions["t2"] == found.predictions["t3"] != ""
    assert len(provider.bills()) == before + 2
    paid = read_balance(desk.journal, "paid").paid - paid_before
    assert found.dollars == pytest.approx(paid)
    assert ask_larger(find_rival(desk), desk.site(), KEY, texts) == found
    assert desk.annotate()[0] == labels
    assert len(provider.bills()) == before + 2


def test_without_money_the_run_pauses(provider: FakeProvider, tmp_path: Path) -> None:
    desk = set_up(provider, tmp_path, {"dollars": 0.05})
    texts = {f"t{at}": f"question {at} " * 9 for at in range(40)}
    why = r"stopping\.dollars is 0\.05, expected at least .* the next answer can cost"
    said = rf"the budget keeps evaluation\.rivals\.0\.model from answering \d+ of 40 .*: {why}"
    with pytest.raises(RunPaused, match=said):
        ask_larger(find_rival(desk), desk.site(), KEY, texts)
    balance = read_balance(desk.journal, "paid")
    assert balance.paid + balance.held <= 0.05
