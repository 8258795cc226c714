"""What ended without a label is asked again once its cause is cured, and is paid once more at most."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import MODES, Desk, configure, make_texts
from helpers.annotation_round import Round
from helpers.command_line import call
from helpers.fakes.provider import FakeProvider
from helpers.fakes.state import label_of
from helpers.faults import CREATE, POLL

from atgen_ray.annotation.llm.request_counts import summarize_requests
from atgen_ray.annotation.llm.retry import Reopened, reopen_requests
from atgen_ray.core.errors import RunBusyError, RunPaused, UserError
from atgen_ray.store.events import WARNING
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.owner import ProcessIdentity

TEXTS = make_texts(12)
LABELS = {id_: label_of(text) for id_, text in TEXTS.items()}
REFUSED: dict[str, Any] = {
    "status": 400,
    "code": "invalid_request",
    "message": "this feature is off for you",
}
ROWS = {"share": 0.5, "row_error": "invalid_request_error"}


def billed(provider: FakeProvider) -> float:
    return sum(bill.prompt + bill.output for bill in provider.bills()) / 1000


def assert_labelled(run: Round, provider: FakeProvider) -> None:
    assert run.labels() == LABELS
    assert run.journal.dead_letters("paid") == []
    balance = read_balance(run.journal, "paid")
    assert (balance.paid, balance.held) == (pytest.approx(billed(provider)), 0)


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_refused_rows_stop_the_run_and_are_asked_again(
    provider: FakeProvider, tmp_path: Path, kind: str, mode: str
) -> None:
    run = Round(tmp_path, configure(provider, kind, mode, poll_seconds=0.02), TEXTS)
    if mode == "batch":
        provider.set(**ROWS, once=[*ROWS])
    else:
        provider.fail(CREATE[kind, mode], times=6, **REFUSED)
    for _ in range(2):  # the same command alone buys nothing and changes nothing
        with pytest.raises(
            RunPaused, match=r"6 of 12 .* round 1 got no label, 6 of them .*retry paid"
        ):
            run.annotate()
        assert len(provider.bills()) == 6
    assert reopen_requests(run.journal, "paid", "in-doubt") == Reopened(0, 0)
    assert reopen_requests(run.journal, "paid", "refused") == Reopened(6, 0)
    run.annotate()
    assert_labelled(run, provider)
    assert Counter(bill.example for bill in provider.bills()) == dict.fromkeys(TEXTS.values(), 1)
    assert reopen_requests(run.journal, "paid") == Reopened(0, 0)  # what is labelled stays


def test_all_refused_is_a_mistake_that_can_be_cured(provider: FakeProvider, tmp_path: Path) -> None:
    run = Round(tmp_path, configure(provider, "openai", "sync"), TEXTS)
    provider.fail(CREATE["openai", "sync"], times=99, **REFUSED)
    for _ in range(2):
        with pytest.raises(UserError, match=r"all 12 requests were refused.*atgen-ray runs retry"):
            run.annotate()
    provider.recover()
    storage = ("--storage", str(tmp_path))
    wrong = call("runs", "retry", "paid", "--only", "refusd", *storage)
    assert wrong.status == 2
    assert (
        "--only is 'refusd', expected refused, dead or in-doubt; did you mean 'refused'"
        in wrong.err
    )
    done = call("runs", "retry", "paid", *storage)
    assert (
        done.out
        == "12 requests are asked again once the run goes on: give the same command as before\n"
    )
    run.annotate()
    assert_labelled(run, provider)


def test_answers_that_failed_their_checks_are_asked_again(
    provider: FakeProvider, tmp_path: Path
) -> None:
    texts = TEXTS | {f"r{index}": f"row {index} [[refuse]]" for index in range(4)}
    run = Round(tmp_path, configure(provider, "openai", "batch", poll_seconds=0.02), texts)
    with pytest.raises(RunPaused, match=r"4 of 16 .* it is a refusal\. Cure"):
        run.annotate()
    assert reopen_requests(run.journal, "paid", "refused") == Reopened(0, 0)
    assert reopen_requests(run.journal, "paid", "dead") == Reopened(8, 0)
    assert run.journal.dead_letters("paid") == []
    with pytest.raises(RunPaused):
        run.annotate()  # they are asked, and mended, once more
    counts = Counter(bill.example for bill in provider.bills())
    assert [counts[texts[f"r{index}"]] for index in range(4)] == [4] * 4
    balance = read_balance(run.journal, "paid")
    assert (balance.paid, balance.held) == (pytest.approx(billed(provider)), 0)
    run.annotate(dead_letters=None)  # accepted
    assert run.labels() == LABELS
    assert reopen_requests(run.journal, "paid", "dead") == Reopened(0, 4)  # in a later round
    assert run.journal.dead_letters("paid") == []


def test_an_answer_in_doubt_is_asked_again_on_demand(
    provider: FakeProvider, tmp_path: Path
) -> None:
    run = Round(tmp_path, configure(provider, "anthropic", "sync"), TEXTS)
    provider.fail(CREATE["anthropic", "sync"], times=3, drop="after")
    with pytest.raises(RunPaused, match=r"in_doubt"):
        run.annotate()
    held = read_balance(run.journal, "paid").paid
    assert held >= billed(provider)
    assert reopen_requests(run.journal, "paid", "in-doubt") == Reopened(3, 0)
    run.annotate()
    assert run.labels() == LABELS
    assert read_balance(run.journal, "paid").paid >= billed(provider)
    counts = Counter(bill.example for bill in provider.bills())
    assert sorted(counts.values()) == [1] * 9 + [2] * 3


def test_a_batch_that_is_gone_can_be_given_up(provider: FakeProvider, tmp_path: Path) -> None:
    desk = Desk(provider, tmp_path, configure(provider, "openai", "batch"), TEXTS)
    provider.fail(POLL["openai"], times=9999, status=404)
    with pytest.raises(RunPaused, match=r"has not found for .* Nothing was given up"):
        desk.annotate()
    desk.site().lease.release()
    assert reopen_requests(desk.journal, "paid") == Reopened(0, 0)  # it is under way
    with pytest.raises(
        UserError, match=r"--give-up is 'batch_x', expected .* did you mean 'batch_"
    ):
        reopen_requests(desk.journal, "paid", batch="batch_x")
    (job,) = summarize_requests(desk.journal, "paid")["batches"]
    assert reopen_requests(desk.journal, "paid", batch=job["remote"]) == Reopened(12, 0)
    provider.recover()
    labels, dead = desk.annotate()
    assert {id_: label.text for id_, label in labels.items()} == LABELS
    assert not dead
    balance = read_balance(desk.journal, "paid")
    assert balance.held == 0
    assert balance.paid >= billed(provider)  # the first batch counts with its worst case


def test_one_line_for_what_cannot_be_retried(provider: FakeProvider, tmp_path: Path) -> None:
    run = Round(tmp_path, configure(provider, "openai", "sync"), TEXTS)
    with pytest.raises(UserError, match=r"run 'piad' is unknown; did you mean 'paid'"):
        reopen_requests(run.journal, "piad")
    with pytest.raises(UserError, match="none is under way"):
        reopen_requests(run.journal, "paid", batch="batch_1")
    run.journal.acquire("paid", ProcessIdentity("other"), 60)
    with pytest.raises(RunBusyError):
        reopen_requests(run.journal, "paid")


def test_one_dead_letter_of_a_small_round_ends_nothing(
    provider: FakeProvider, tmp_path: Path
) -> None:
    texts = {"a": "fine", "b": "not fine [[refuse]]"}
    run = Round(tmp_path, configure(provider, "openai", "sync"), texts)
    run.annotate()
    assert run.labels() == {"a": label_of("fine")}


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_a_server_that_ignores_the_limit_is_slowed_down_and_named(
    provider: FakeProvider, tmp_path: Path, kind: str, mode: str
) -> None:
    """At most what was under way at first is above the budget; from then on nothing is."""
    provider.set(extra_tokens=400)
    texts = make_texts(40)
    config = configure(provider, kind, mode, {"dollars": 6.0}, shard_rows=2, concurrency=4)
    desk = Desk(provider, tmp_path, config, texts)
    labels, _ = desk.annotate()
    (warning,) = desk.journal.events("paid", kind=WARNING)
    assert "bills answers of more than 20 tokens" in warning.payload[WARNING]
    answer = billed(provider) / len(provider.bills())
    under_way = 4 * (2 if mode == "batch" else 1)
    assert len(labels) == len(provider.bills()) <= max(under_way, 6.0 // answer)
    again, _ = desk.annotate()
    assert again.keys() == labels.keys()
    assert len(desk.journal.events("paid", kind=WARNING)) == 1
