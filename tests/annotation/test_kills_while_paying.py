"""SIGKILL at every point of an annotation, in every mode: what was billed is stored, each row
once.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider
from helpers.fakes.state import label_of
from helpers.processes import PROCESSES

from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.store.ledger import read_balance

ROWS = 6
# Calls of the wire, in order; the kill comes before or after what each does.
CALLS = {
    ("openai", "sync"): ["POST /v1/chat/completions"],
    ("openai", "batch"): [
        "POST /v1/files",
        "POST /v1/batches",
        "GET /v1/batches/{batch}",
        "GET /v1/files/{file}/content",
    ],
    ("anthropic", "sync"): ["POST /v1/messages"],
    ("anthropic", "batch"): [
        "POST /v1/messages/batches",
        "GET /v1/messages/batches/{batch}",
        "GET /v1/messages/batches/{batch}/results",
    ],
    ("mistral", "batch"): [
        "POST /v1/files",
        "POST /v1/batch/jobs",
        "GET /v1/batch/jobs/{batch}",
        "GET /v1/files/{file}/content",
    ],
    ("gemini", "batch"): [
        "POST /v1beta/models/{call}",
        "GET /v1beta/batches/{batch}",
    ],
}
# Points within our own process: the method of the book, or of the provider, and which side of it.
OWN = [
    ("intend", "before"),
    ("intend", "after"),
    ("settle", "before"),
    ("settle", "after"),
    ("read", "before"),
]
CREATED = [("record_created", "before"), ("record_created", "after")]


def annotate(
    provider: FakeProvider,
    folder: Path,
    kind: str,
    mode: str,
    own: tuple[str, str, int] | None,
    dollars: float | None = None,
) -> None:
    """A process that annotates, and dies at a point of its own or where the stand-in kills it."""
    provider.watch(os.getpid())
    desk = make_desk(provider, folder, kind, mode, dollars)
    annotator = desk.annotator()
    if own is not None:
        name, side, skip = own
        owner: Any = annotator._provider if name == "read" else RequestLog
        setattr(owner, name, dying(getattr(owner, name), side, skip))
    annotator.annotate_batch(list(desk.texts), list(desk.texts.values()))


def make_desk(
    provider: FakeProvider, folder: Path, kind: str, mode: str, dollars: float | None
) -> Desk:
    """Six examples, or thirty of which the budget pays for the longest answers of a few."""
    if dollars is None:
        config = configure(provider, kind, mode, concurrency=2, shard_rows=4)
        return Desk(provider, folder, config, make_texts(ROWS))
    config = configure(
        provider, kind, mode, {"dollars": dollars}, shard_rows=40, max_output_tokens=400
    )
    texts = {id_: f"{text} [[words-{int(id_[1:]) % 4}]]" for id_, text in make_texts(30).items()}
    return Desk(provider, folder, config, texts | {"long": "a long one [[words-40]]"})


def dying(method: Callable[..., Any], side: str, skip: int) -> Callable[..., Any]:
    left = [skip]

    def call(*arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] < 0 and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*arguments, **keywords)
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def start(*arguments: Any) -> int | None:
    process = PROCESSES.Process(target=annotate, args=arguments)
    process.start()
    process.join(300)
    return process.exitcode


def list_points(kind: str, mode: str) -> list[tuple[str, str, int]]:
    # What differs between providers is told by the first call of each sort.
    skips = (0, 1) if kind in ("openai", "anthropic") else (0,)
    points = [
        (call, side, skip)
        for call in CALLS[kind, mode]
        for side in ("before", "after")
        for skip in skips
    ]
    return (
        points
        + [(name, side, 0) for name, side in OWN + CREATED * (mode == "batch")]
        + [("settle", "after", 1)]
    )


@pytest.mark.parametrize(("kind", "mode"), CALLS)
def test_what_was_billed_is_stored_once(
    provider: FakeProvider, tmp_path: Path, kind: str, mode: str
) -> None:
    points = list_points(kind, mode)
    assert len(points) >= 8
    killed = 0
    for number, (name, side, skip) in enumerate(points):
        provider.reset()
        folder = tmp_path / f"{number}"
        folder.mkdir()
        wire = name.startswith(("GET", "POST"))
        if wire:
            provider.fail(name, skip=skip, kill=side)
        died = start(provider, folder, kind, mode, None if wire else (name, side, skip))
        assert died in (-signal.SIGKILL, 0), (
            f"{name} {side} {skip}"
        )  # 0: the point is not reached so often
        killed += died != 0
        assert start(provider, folder, kind, mode, None) == 0, f"resumed after {name} {side} {skip}"
        check(
            provider,
            Desk(provider, folder, configure(provider, kind, mode), make_texts(ROWS)),
            f"{name} {side} {skip}",
        )
    assert killed >= 8


TROUBLES = {
    # The first batch is under way until the second has come.
    "POST /v1/batches": {"queue": 4, "company": 2},
    "GET /v1/batches/{batch}": {"late_file": 4},
    "GET /v1/files/{file}/content": {"late_lines": 3},
}


@pytest.mark.parametrize("call", TROUBLES)
def test_a_kill_while_the_run_waits_for_the_provider_loses_nothing(
    provider: FakeProvider, tmp_path: Path, call: str
) -> None:
    provider.set(**TROUBLES[call])
    provider.fail(call, skip=2, kill="after")
    assert start(provider, tmp_path, "openai", "batch", None) == -signal.SIGKILL
    assert start(provider, tmp_path, "openai", "batch", None) == 0
    desk = Desk(provider, tmp_path, configure(provider, "openai", "batch"), make_texts(ROWS))
    check(provider, desk, call)


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        ("sync", ("intend", "after", 2)),
        ("sync", ("POST /v1/chat/completions", "after", 3)),
        ("batch", ("intend", "after", 2)),
        ("batch", ("settle", "before", 1)),
    ],
)
def test_a_budget_that_shortens_answers_holds_through_a_kill(
    provider: FakeProvider, tmp_path: Path, mode: str, point: tuple[str, str, int]
) -> None:
    """What was shortened stays so when it is sent again, and a budget of little more than the true
    cost labels what it did without a kill.
    """
    name, side, skip = point
    (tmp_path / "free").mkdir()
    assert start(provider, tmp_path / "free", "openai", mode, None, 100.0) == 0
    true_cost = sum(bill.prompt + bill.output for bill in provider.bills()) / 1000
    provider.reset()
    dollars = 1.02 * true_cost
    if name.startswith("POST"):
        provider.fail(name, skip=skip, kill=side)
        point = None  # type: ignore[assignment]
    assert start(provider, tmp_path, "openai", mode, point, dollars) == -signal.SIGKILL
    assert start(provider, tmp_path, "openai", mode, None, dollars) == 0
    desk = make_desk(provider, tmp_path, "openai", mode, dollars)
    before = provider.calls()
    labels, dead = desk.annotate()
    assert provider.calls() == before
    bills = provider.bills()
    billed = sum(bill.prompt + bill.output for bill in bills) / 1000
    balance = read_balance(desk.journal, "paid")
    assert (balance.paid, balance.held) == (pytest.approx(billed), 0)
    assert billed <= dollars
    assert not dead
    twice = {example for example, count in Counter(b.example for b in bills).items() if count > 1}
    cut = {
        desk.texts[key[0]]
        for key, row in desk.annotator()._request_log.read_latest().items()
        if row.attempt or row.cut
    }
    assert twice <= cut
    assert len(labels) >= 29
    for id_, label in labels.items():
        assert label.text.startswith(label_of(desk.texts[id_]))
        assert label.text.count("word") == int(desk.texts[id_].split("words-")[1][:-2])


def check(provider: FakeProvider, desk: Desk, point: str) -> None:
    """The state after a resumed run, read again from the book."""
    before = provider.calls()
    labels, dead = desk.annotate()
    assert provider.calls() == before, f"asked again after {point}"
    bills = provider.bills()
    assert {id_: label.text for id_, label in labels.items()} == {
        id_: label_of(desk.texts[id_]) for id_ in labels
    }, point
    assert max(Counter(bill.example for bill in bills).values()) == 1, f"paid twice at {point}"
    stored = {desk.texts[id_] for id_ in labels}
    in_doubt = {desk.texts[id_] for id_, letter in dead.items() if "in_doubt" in letter.reason}
    assert stored | in_doubt == set(desk.texts.values()), point
    assert {bill.example for bill in bills} <= stored | in_doubt, f"lost at {point}"
    balance, billed = (
        read_balance(desk.journal, "paid"),
        sum(bill.prompt + bill.output for bill in bills) / 1000,
    )
    assert balance.held == 0, point
    if desk.config.annotator.type == "anthropic" and desk.config.annotator.mode == "sync":
        assert len(in_doubt) <= 2, point  # as many as were under way
        assert balance.paid >= billed - 1e-9, point
    else:
        assert not dead, point
        assert balance.paid == pytest.approx(billed), point
