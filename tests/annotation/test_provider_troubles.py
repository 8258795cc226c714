"""Providers as they are: nothing that is paid is thrown away, and no failure is final that time or
the user can cure.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers.annotation_desk import Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider
from helpers.faults import CREATE, Fault, list_trials, try_fault
from helpers.troubles import TROUBLES

from atgen_ray.core.errors import RunPaused
from atgen_ray.runs.console import describe_annotation
from atgen_ray.runs.queries import describe_run


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
    assert account.dollars_off >= 0, account
    assert (account.dollars_off > 0) == fault.untold, account


def test_a_pause_says_until_when_and_those_who_look_see_why(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.fail(CREATE["openai", "batch"], status=429, retry_after=86400, message="come later")
    desk = Desk(provider, tmp_path, configure(provider, "openai", "batch"), make_texts(4))
    with pytest.raises(RunPaused) as paused:
        desk.annotate()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert f"wants no call before {tomorrow:%Y-%m-%d}" in str(paused.value)
    (line,) = show(desk)
    assert "0 calls in flight" in line
    assert str(paused.value) in line
    provider.set(stuck="in_progress")
    seen = list[str]()

    def look(done: int, total: int) -> None:
        lines = show(desk)
        if any("in_progress" in line for line in lines):
            seen.extend(lines)
            raise RunPaused

    desk.progress = look
    with pytest.raises(RunPaused):
        desk.annotate()
    assert "1 calls in flight" in seen[-2]
    assert "4 requests, in_progress (4 total, 4 completed)" in seen[-1]


def test_what_the_run_waits_for_is_told_to_those_who_follow_it(
    provider: FakeProvider, tmp_path: Path
) -> None:
    desk = Desk(provider, tmp_path, configure(provider, "openai", "batch"), make_texts(4))
    said = list[str | None]()
    context = replace(desk.site(), wait_outside=said.append)
    state = {"provider": "openai", "in_flight": 1, "waiting_until": None, "queue_full": False}
    state |= {"last_error": "status 429 (slow down)", "failing": False}
    for news in (
        {},
        {"waiting_until": 0},
        {"waiting_until": 1, "failing": True},
        {"queue_full": True},
    ):
        context.report(state | news)
    assert said == [
        None,
        None,
        "openai: no call before 00:00:01 UTC, status 429 (slow down)",
        "openai: its queue is full",
    ]


def show(desk: Desk) -> list[str]:
    """What `atgen-ray runs show` says of annotation, but for the counts of requests."""
    view = describe_run(desk.journal, str(desk.folder), desk.config.name)
    return [line for line in describe_annotation(view["annotation"]) if "dollars" not in line]
