"""What a request can cost at most: sharpened by answers, and still never less than its bill."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
import tiktoken
import tiktoken.load
import tiktoken.registry
import tokenizers
from helpers.annotation_desk import MODES, PRICE, Desk, configure
from helpers.fakes.provider import FakeProvider
from helpers.fakes.state import label_of, think
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.annotation.llm.cost_bounds import FEW, CostBounds
from atgen_ray.annotation.llm.prompts import PromptWriter
from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.llm.request_records import Settlement
from atgen_ray.annotation.llm.token_counter import find_counter
from atgen_ray.annotation.providers.base import RequestAttempt, Shard
from atgen_ray.annotation.request import AnnotationRequest, Prompt
from atgen_ray.config import OpenAIAnnotatorConfig, RunConfig, StoppingConfig
from atgen_ray.config.prices import Price
from atgen_ray.core.errors import UserError
from atgen_ray.core.money import NANO
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import Ledger, read_balance
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import ledger

LONGEST = 100
DOLLAR_A_TOKEN = Price(1e6, 1e6, "here")


def make_bounds(count: Callable[[str], int] | None = None) -> CostBounds:
    config = OpenAIAnnotatorConfig(type="openai", model="m", max_output_tokens=LONGEST)
    return CostBounds(config, DOLLAR_A_TOKEN, count)


def ask(id_: str, text: str, system: str = "Label it.") -> AnnotationRequest:
    shots = (("user", "an example"), ("assistant", "a label"))
    return AnnotationRequest(id_, 0, 0, Prompt(system, (*shots, ("user", text))))


class Model:
    """How a provider counts: some tokens for each turn, and a token for `width` bytes of a turn."""

    def __init__(self, width: int) -> None:
        self._width = width

    def count(self, text: str) -> int:
        return -(-len(text.encode()) // self._width)

    def count_prompt(self, prompt: Prompt) -> int:
        texts = [prompt.system, *(text for _, text in prompt.turns)]
        return 7 + sum(self.count(text) + 4 for text in texts)


@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(
        st.tuples(st.integers(0, 60), st.one_of(st.integers(0, 12), st.integers(0, 300))),
        min_size=15,
        max_size=40,
    ),
    dollars=st.integers(300, 3000),
    at_once=st.integers(2, 30),
    width=st.integers(1, 6),
    tokenizer=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_no_bill_exceeds_what_is_held_and_no_bills_the_budget(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[int, int]],
    dollars: int,
    at_once: int,
    width: int,
    tokenizer: bool,
    order: object,
) -> None:
    """Whatever answers come to and in whatever order: every bill is within its reservation."""
    journal = Journal(f"sqlite:///{tmp_path_factory.getbasetemp() / 'bounds.db'}")
    lease = journal.acquire(
        journal.create_run(f"run-{uuid4().hex}", {}, "").name, ProcessIdentity("a"), 600
    )
    money = Ledger(lease.run, StoppingConfig(dollars=float(dollars)))
    log = RequestLog(journal, lease, money, "openai/m", 1)
    model = Model(width)
    bounds = make_bounds(model.count if tokenizer else None)
    todo = [(ask(f"e{at}", "x" * size), 0) for at, (size, _) in enumerate(lengths)]
    answers = {f"e{at}": length for at, (_, length) in enumerate(lengths)}
    under_way: list[tuple[Shard, RequestAttempt, tuple[int, int]]] = []
    billed = 0
    while True:
        pieces = [[each] for each in todo[: at_once - len(under_way)]]
        sent, _ = log.intend(pieces, bounds.worst, bounds.shortener())
        todo = todo[len(sent) :]
        for shard in sent:  # the provider bills it now, whatever becomes of us
            (attempt,) = shard.attempts
            request = attempt.request
            tokens = (
                model.count_prompt(request.prompt),
                min(answers[request.example_id], request.output_limit or LONGEST),
            )
            billed += sum(tokens)
            under_way.append((shard, attempt, tokens))
        assert billed <= dollars
        if not under_way:
            break
        order.shuffle(under_way)  # type: ignore[attr-defined]
        back = [under_way.pop() for _ in range(-(-len(under_way) // 3))]
        collected = {}
        for shard, attempt, tokens in back:
            request = attempt.request
            again = request.output_limit is not None and tokens[1] == request.output_limit
            bounds.learn(request, *tokens, cut=again)
            if again:
                todo.append((replace(request, output_limit=None), attempt.number + 1))
            state = "unanswered" if again else "answered"
            paid = sum(tokens) * NANO
            collected[shard.hash] = [
                Settlement(attempt.custom_id, state, paid, None, None, *tokens)
            ]
        log.settle(collected)
    with journal.database.reading() as connection:
        rows = connection.execute(sa.select(ledger).where(ledger.c.run == lease.run)).all()
    assert all(row.paid <= row.held for row in rows)
    assert read_balance(journal, lease.run).paid == billed
    assert all(record.attempt <= 1 for record in log.read_latest().values()), "cut twice"
    journal.close()


def test_the_first_answer_tells_what_all_prompts_share() -> None:
    bounds, model = make_bounds(), Model(4)
    first, second = ask("a", "x" * 40), ask("b", "y" * 60)
    assert bounds.bound_prompt(second.prompt) == second.prompt.tokens_at_most
    bounds.learn(first, model.count_prompt(first.prompt), 5)
    assert bounds.bound_prompt(second.prompt) == model.count_prompt(first.prompt) + 60
    other = ask("c", "z", system="Another system turn.")
    assert bounds.bound_prompt(other.prompt) == other.prompt.tokens_at_most


def test_a_tokenizer_counts_the_question_too() -> None:
    model = Model(4)
    bounds = make_bounds(model.count)
    first, second = ask("a", "x" * 400), ask("b", "y" * 600)
    true = model.count_prompt(second.prompt)
    assert true <= bounds.bound_prompt(second.prompt) < second.prompt.tokens_at_most
    bounds.learn(first, model.count_prompt(first.prompt), 5)
    assert true <= bounds.bound_prompt(second.prompt) <= true + 4


def test_a_tokenizer_of_another_model_is_given_up() -> None:
    bounds = make_bounds(lambda text: 1)
    request = ask("a", "x" * 4000)
    assert bounds.bound_prompt(request.prompt) < 1000
    bounds.learn(request, 1000, 5)
    assert bounds.bound_prompt(request.prompt) == request.prompt.tokens_at_most


def test_a_limit_is_learnt_from_answers_until_one_ignores_it() -> None:
    bounds, request = make_bounds(), ask("a", "x")
    for length in range(1, FEW):
        bounds.learn(request, 50, length)
    assert bounds.find_limit() is None  # too few to tell
    bounds.learn(request, 50, FEW)
    assert bounds.find_limit() == 2 * FEW + 1
    bounds.learn_lengths([5] * 90)
    assert bounds.find_limit() == 8 + 1  # one of a hundred is longer
    assert bounds.worst(replace(request, output_limit=9)) < bounds.worst(request)
    bounds.learn(replace(request, output_limit=9), 50, 10)
    assert bounds.find_limit() is None


def test_limits_rise_where_too_many_answers_reach_them() -> None:
    bounds = make_bounds()
    bounds.learn_lengths([5] * 100)
    assert bounds.find_limit() == 6
    cut = [replace(ask(f"e{at}", "x"), output_limit=6) for at in range(4)]
    for request in cut:
        bounds.learn(request, 50, 6, cut=True)
    assert bounds.find_limit() is None  # four of a hundred are longer, and nobody knows by how much
    for request in cut:
        bounds.learn(replace(request, output_limit=None), 50, 20)
    assert bounds.find_limit() == 20 + 1


def test_long_answers_are_never_cut_below_the_longest() -> None:
    bounds = make_bounds()
    bounds.learn_lengths([LONGEST] * 200)
    assert bounds.find_limit() is None


def true_tokens(config: RunConfig, text: str) -> int:
    """What the stand-in bills for an example."""
    prompt = PromptWriter(config.annotator, config.prompt).write(text)  # type: ignore[arg-type]
    answer, _ = think(prompt.system, [{"content": prompt.turns[-1][1]}], 0)
    return (len(prompt.system) + len(prompt.turns[-1][1])) // 4 + len(answer) // 4 + 1


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_a_budget_of_the_true_cost_becomes_labels(
    provider: FakeProvider, tmp_path: Path, kind: str, mode: str
) -> None:
    """Held by bytes and the longest answer, this budget took 66 batch jobs; every label is right,
    and the bill is within the budget.
    """
    rows = 100 if mode == "batch" else 20
    texts = {f"e{at:03d}": f"example {at} [[words-{at * 7 % 5}]]" for at in range(rows)}
    settings = {"max_output_tokens": 400, "concurrency": 8, "shard_rows": 1000}
    price = PRICE["input"] / 1e6
    cost = price * sum(
        true_tokens(configure(provider, kind, mode), text) for text in texts.values()
    )
    config = configure(provider, kind, mode, {"dollars": cost}, **settings)
    desk = Desk(provider, tmp_path, config, texts)
    labels, dead = desk.annotate()
    bills = provider.bills()
    balance = read_balance(desk.journal, "paid")
    assert sum(bill.prompt + bill.output for bill in bills) * price <= cost
    assert balance.paid == pytest.approx(sum(bill.prompt + bill.output for bill in bills) * price)
    assert balance.held == 0
    assert not dead
    assert sum(label.dollars for label in labels.values()) > 0.9 * cost
    for id_, label in labels.items():
        assert label.text.startswith(label_of(texts[id_]))
        assert label.text.count("word") == int(id_[1:]) * 7 % 5
    if mode == "batch":
        create = "/v1/batches" if kind == "openai" else "/v1/messages/batches"
        assert provider.calls()[create] <= 16


def test_an_answer_that_was_cut_is_asked_for_again_in_full(
    provider: FakeProvider, tmp_path: Path
) -> None:
    texts = {f"e{at:02d}": f"example {at}" for at in range(12)} | {"long": "example [[words-60]]"}
    settings: dict[str, Any] = {"max_output_tokens": 200, "concurrency": 12}
    desk = Desk(provider, tmp_path, configure(provider, "openai", "sync", **settings), texts)
    desk.annotate(1, [id_ for id_ in texts if id_ != "long"])
    spent = read_balance(desk.journal, "paid").paid
    writer = PromptWriter(desk.config.annotator, desk.config.prompt)  # type: ignore[arg-type]
    # Half of what the longest answer would take, beside the prompt held by bytes.
    budget = spent + (writer.write(texts["long"]).tokens_at_most + 100) / 1000
    desk.config = configure(provider, "openai", "sync", {"dollars": budget}, **settings)
    labels, dead = desk.annotate(2, ["long"])
    assert not dead
    assert labels["long"].text.count("word") == 60
    outputs = [bill.output for bill in provider.bills() if bill.example == texts["long"]]
    assert len(outputs) == 2
    assert outputs[0] < outputs[1]
    assert labels["long"].dollars == pytest.approx(read_balance(desk.journal, "paid").paid - spent)
    again, _ = desk.annotate(2, ["long"])
    assert again == labels
    assert len(provider.bills()) == len(texts) + 1


def test_what_is_sent_again_after_a_kill_may_cost_what_was_held_for_it(
    journal: Journal, run: str
) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 600)
    log = RequestLog(journal, lease, Ledger(run, StoppingConfig(dollars=500.0)), "openai/m", 1)
    bounds = make_bounds()
    requests = [ask(f"e{at}", "x") for at in range(3)]
    shards, limit = log.intend(
        [[(request, 0) for request in requests]],
        bounds.worst,
        lambda request: replace(request, output_limit=3),
    )
    assert limit is None  # the shorter answers fit
    [again] = log.open_shards({request.key: request for request in requests})
    assert again.attempts == shards[0].attempts
    assert {attempt.request.output_limit for attempt in again.attempts} == {3}


def make_tokenizer(folder: Path) -> Path:
    """A tokenizer that splits at white space, as a model's folder has it."""
    folder.mkdir()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_the_tokenizer_of_a_folder_counts(tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "model")
    for named in ({"tokenizer": str(folder)}, {"model": str(folder), "base_url": "http://x"}):
        config = OpenAIAnnotatorConfig.model_validate({"type": "openai", "model": "m"} | named)
        count = find_counter(config, "annotator")
        assert count is not None
        assert count("three words here") == 3


def test_a_tokenizer_that_is_not_here_is_told(tmp_path: Path) -> None:
    config = OpenAIAnnotatorConfig(type="openai", model="m", tokenizer=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"annotator\.tokenizer is .*none', expected a folder with"):
        find_counter(config, "annotator")


def test_a_tokenizer_that_is_broken_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "no such type"}}')
    config = OpenAIAnnotatorConfig(type="openai", model=str(tmp_path), base_url="http://x")
    assert [find_counter(config, "annotator") for _ in range(2)] == [None, None]
    (told,) = caplog.messages
    assert told.startswith(f"{tmp_path / 'tokenizer.json'} is no tokenizer, so every byte")


def test_tiktoken_counts_from_its_cache_and_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    address = "https://nowhere.invalid/bytes.tiktoken"

    def construct() -> dict[str, object]:
        ranks = tiktoken.load.load_tiktoken_bpe(address)
        return {"name": "ours", "pat_str": r"\S+", "mergeable_ranks": ranks, "special_tokens": {}}

    tiktoken.list_encoding_names()  # fills the registry
    registry = tiktoken.registry.ENCODING_CONSTRUCTORS
    assert registry is not None
    monkeypatch.setitem(registry, "ours", construct)
    config = OpenAIAnnotatorConfig(type="openai", model="m", tokenizer="ours")
    with pytest.raises(UserError, match="whose file is in TIKTOKEN_CACHE_DIR"):
        find_counter(config, "annotator")
    lines = [f"{base64.b64encode(bytes([at])).decode()} {at}" for at in range(256)]
    name = hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    (tmp_path / name).write_text("\n".join(lines))
    count = find_counter(config, "annotator")
    assert count is not None
    assert count("four") == 4
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "ours", raising=False)


def test_a_model_of_openai_without_its_file_is_held_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    assert find_counter(OpenAIAnnotatorConfig(type="openai", model="gpt-4.1"), "annotator") is None
