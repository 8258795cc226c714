"""Votes, routes between annotators, JSON answers, and what is done on a stop or in doubt."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider
from helpers.fakes.state import label_of

from atgen_ray.annotation.human.queue import Queue
from atgen_ray.annotation.registry import build_annotator
from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import RunStopped
from atgen_ray.store.ledger import read_balance

TEXTS = make_texts(4) | {"w1": "one [[waver]]", "w2": "two [[waver]]"}


def route(provider: FakeProvider, then: Any) -> RunConfig:
    """A run whose stand-in votes three times and passes on what it is not sure of."""
    tree = dump_config(configure(provider, "openai", "sync", votes=3, temperature=0.7))
    tree["annotator"] = {"type": "router", "first": tree["annotator"], "then": then}
    return parse_config(tree)


def annotate(desk: Desk) -> tuple[dict, dict]:
    labels, dead = build_annotator(desk.config.annotator, desk.site()).annotate_batch(
        [*TEXTS], [*TEXTS.values()]
    )
    return {label.id: label for label in labels}, {letter.id: letter for letter in dead}


def test_what_the_votes_disagree_on_is_labelled_by_people(
    provider: FakeProvider, tmp_path: Path
) -> None:
    then = {"type": "human", "price_per_label": 0.5, "settle_seconds": 0.0}
    desk = Desk(provider, tmp_path, route(provider, then), TEXTS)
    seen: dict[str, Any] = {}

    def label(name: str) -> None:
        deadline = time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < deadline:
            for task in Queue(desk.journal, "paid", name).lease(5):
                seen[task["id"]] = task["suggestion"]
                Queue(desk.journal, "paid", name).answer(
                    f"key-{task['id']}", task["id"], "submitted", "by a person"
                )
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as person:
        working = person.submit(label, "ann")
        labels, dead = annotate(desk)
        working.result(60)
    assert not dead
    assert {i: labels[i].text for i in make_texts(4)} == {
        i: label_of(TEXTS[i]) for i in make_texts(4)
    }
    assert all(labels[id_].provenance["confidence"] == 1.0 for id_ in make_texts(4))
    assert set(seen) == {"w1", "w2"}
    for id_, draft in seen.items():
        assert draft["text"].startswith(label_of(TEXTS[id_]))
        assert (labels[id_].text, labels[id_].annotator) == ("by a person", "human/ann")
        first = labels[id_].provenance["first"]
        assert (first["annotator"], first["reason"]) == (
            "openai/fake",
            "confidence 0.33 is below 0.7",
        )
    (event,) = [event for event in desk.journal.events("paid") if event.kind == "awaiting-human"]
    assert event.payload == {"tasks": 2, "notices": []}
    assert Counter(bill.example for bill in provider.bills()) == dict.fromkeys(TEXTS.values(), 3)
    paid = sum(bill.prompt + bill.output for bill in provider.bills()) / 1000
    assert read_balance(desk.journal, "paid").paid == pytest.approx(paid + 1.0)


def test_a_second_model_labels_the_rest_and_both_are_in_the_ledger(
    provider: FakeProvider, tmp_path: Path
) -> None:
    then = dump_config(configure(provider, "anthropic", "sync"))["annotator"]
    desk = Desk(provider, tmp_path, route(provider, then), TEXTS)
    labels, dead = annotate(desk)
    assert not dead
    assert set(labels) == set(TEXTS)
    first = labels["w1"].provenance["first"]
    assert first["annotator"] == "openai/fake"
    assert first["reason"] == "confidence 0.33 is below 0.7"
    assert labels["w1"].annotator == "anthropic/fake"
    assert labels["w1"].text != first["text"]
    assert labels["w1"].dollars > first["dollars"] > 0
    bills = provider.bills()
    assert Counter(bill.example for bill in bills) == {
        text: 4 if "waver" in text else 3 for text in TEXTS.values()
    }
    paid = sum(bill.prompt + bill.output for bill in bills) / 1000
    assert read_balance(desk.journal, "paid").paid == pytest.approx(paid)
    assert sum(label.dollars for label in labels.values()) == pytest.approx(paid)


def test_a_json_answer_is_read_by_its_schema(provider: FakeProvider, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
    config = configure(provider, "openai", "sync", output_schema=schema, output_field="label")
    desk = Desk(provider, tmp_path, config, {"good": "x [[json]]", "bad": "x"})
    labels, dead = desk.annotate()
    assert {id_: label.text for id_, label in labels.items()} == {"good": label_of("x [[json]]")}
    assert set(dead) == {"bad"}
    assert len(provider.bills()) == 3  # the bad one was asked once more


@pytest.mark.parametrize("mode", ["sync", "batch"])
def test_a_round_has_a_budget_of_its_own(provider: FakeProvider, tmp_path: Path, mode: str) -> None:
    config = configure(
        provider, "openai", mode, stopping={"dollars_per_round": 0.6, "dollars": 100.0}
    )
    desk = Desk(provider, tmp_path, config, make_texts(20))
    first, _ = desk.annotate(round=1)
    rest = [id_ for id_ in desk.texts if id_ not in first]
    second, _ = desk.annotate(round=2, ids=rest)
    assert first
    assert second
    bills = [bill.prompt + bill.output for bill in provider.bills()]
    assert len(bills) == len(first) + len(second) < 20
    assert sum(bills) / 1000 <= 1.2
    events = [event.payload for event in desk.journal.events("paid") if event.kind == "budget"]
    assert [event["limit"] for event in events] == ["round", "round"]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_stop_cancels_batch_jobs_where_it_is_told_to(
    provider: FakeProvider, tmp_path: Path, kind: str
) -> None:
    provider.set(stuck="in_progress", polls=10_000)
    polls = f"GET /v1/{'batches' if kind == 'openai' else 'messages/batches'}/"

    def stop_when_polled(done: int, total: int) -> None:
        if any(call.startswith(polls) for call in provider.calls()):
            raise RunStopped("stopped by the user")

    desk = Desk(
        provider,
        tmp_path,
        configure(provider, kind, "batch", on_stop="cancel"),
        TEXTS,
        progress=stop_when_polled,
    )
    with pytest.raises(
        RunStopped,
        match=r"stopped by the user; batch \S+ was cancelled at .*the same command collects",
    ):
        desk.annotate()
    assert any(call.startswith("POST") and call.endswith("/cancel") for call in provider.calls())
    desk.progress = lambda done, total: None
    provider.recover()
    labels, dead = desk.annotate()
    assert set(labels) == set(TEXTS)
    assert not dead
    assert set(Counter(bill.example for bill in provider.bills()).values()) == {1}


def test_a_request_in_doubt_is_sent_again_only_where_that_was_asked_for(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.fail("POST /v1/messages", drop="after")
    config = configure(provider, "anthropic", "sync", in_doubt="resend")
    desk = Desk(provider, tmp_path, config, make_texts(6))
    labels, dead = desk.annotate()
    assert {id_: label.text for id_, label in labels.items()} == {
        i: label_of(t) for i, t in desk.texts.items()
    }
    assert not dead
    counts = Counter(bill.example for bill in provider.bills())
    assert sorted(counts.values()) == [1, 1, 1, 1, 1, 2]
    paid = sum(bill.prompt + bill.output for bill in provider.bills()) / 1000
    assert (
        read_balance(desk.journal, "paid").paid >= paid
    )  # the lost answer's worst case counts as paid
