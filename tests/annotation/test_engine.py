"""The engine against a stand-in that fails in every way it can: nothing is lost, paid twice or swapped."""

from collections import Counter
from pathlib import Path

import pytest
from annotation_desk import MODES, Desk, configure, make_texts
from fakes.provider import FakeProvider
from fakes.state import label_of
from faults import Fault, expect_doubt, list_trials, try_fault

from atgen_ray.budget import read_balance


def assert_exact(desk: Desk, provider: FakeProvider, labels: dict, dead: dict | None = None) -> None:
    """Every example has its own label, was billed once, and the ledger holds what the bills say."""
    assert {id_: label.text for id_, label in labels.items()} == {i: label_of(t) for i, t in desk.texts.items()}
    assert not dead
    bills = provider.bills()
    assert Counter(bill.example for bill in bills) == Counter(desk.texts.values())
    balance = read_balance(desk.journal, "paid")
    assert balance.paid == pytest.approx(sum(bill.prompt + bill.output for bill in bills) / 1000)
    assert balance.held == 0
    assert sum(label.dollars for label in labels.values()) == pytest.approx(balance.paid)


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_every_example_is_labelled_and_billed_once(
    provider: FakeProvider, tmp_path: Path, kind: str, mode: str
) -> None:
    desk = Desk(provider, tmp_path, configure(provider, kind, mode), make_texts(20))
    labels, dead = desk.annotate()
    assert_exact(desk, provider, labels, dead)
    again, _ = desk.annotate()  # as after a kill just before the labels were recorded
    assert again == labels
    assert len(provider.bills()) == 20


@pytest.mark.parametrize(
    ("fault", "kind", "mode"),
    [pytest.param(*each, id=f"{each[1]}-{each[2]}: {each[0].name}") for each in list_trials()],
)
def test_nothing_is_lost_paid_twice_or_swapped(
    fault: Fault, kind: str, mode: str, provider: FakeProvider, tmp_path: Path
) -> None:
    account = try_fault(fault, provider, tmp_path, kind, mode)
    assert (account.lost, account.paid_twice, account.mislabelled, account.missing) == (0, 0, 0, 0), account
    assert account.doubt == expect_doubt(fault, kind, mode), account
    assert account.dead == fault.dead, account
    assert account.pauses == fault.paused, account
    assert account.dollars_off == 0, account
