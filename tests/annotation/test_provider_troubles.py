"""Providers as they are: nothing that is paid is thrown away, and no failure is final that time or
the user can cure.
"""

from pathlib import Path

import pytest
from helpers.fakes.provider import FakeProvider
from helpers.faults import Fault, list_trials, try_fault
from helpers.troubles import TROUBLES, UNTOLD


@pytest.mark.parametrize(
    ("fault", "kind", "mode"),
    [
        pytest.param(*each, id=f"{each[1]}-{each[2]}: {each[0].name}")
        for each in list_trials(TROUBLES)
    ],
)
def test_nothing_that_is_paid_is_thrown_away(
    fault: Fault, kind: str, mode: str, provider: FakeProvider, tmp_path: Path
) -> None:
    account = try_fault(fault, provider, tmp_path, kind, mode)
    wrong = (account.lost, account.paid_twice, account.mislabelled, account.missing, account.doubt)
    assert wrong == (0, 0, 0, 0, 0), account
    assert account.dead == fault.dead, account
    assert account.pauses == fault.paused, account
    if fault.name in UNTOLD:
        assert account.dollars_off > 0, account
    else:
        assert account.dollars_off == 0, account
