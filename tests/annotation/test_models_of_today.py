"""What is sent to models that refuse settings, that think, and that cache; and what the environment
may not change.
"""

from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider

from atgen_ray.annotation.llm.cost_bounds import CostBounds
from atgen_ray.annotation.llm.prompts import PromptWriter
from atgen_ray.annotation.providers.base import RequestAttempt, Shard
from atgen_ray.annotation.registry import build_provider
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import RemoteAnnotatorConfig
from atgen_ray.config.dialects import refuses_temperature, thinks, wants_completion_limit
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.config.prices import find_price
from atgen_ray.core.errors import RunPaused, UserError
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.runs.controller import Controller
from atgen_ray.store.events import WARNING
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import read_balance
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

REFUSE = [
    "gpt-5",
    "gpt-5-mini-2025-08-07",
    "gpt-6-luna",
    "openai/gpt-5.6",
    "o3",
    "o4-mini",
    "claude-opus-4-7",
    "anthropic/claude-opus-4.8",
    "claude-haiku-5-5",
    "us.anthropic.claude-sonnet-5",
    "claude-fable-5",
    "anthropic/claude-4.7-opus",
    "gemini-3.8-flash",
]
TAKE = [
    "gpt-4.1-mini",
    "gpt-4o",
    "claude-haiku-4-5",
    "claude-sonnet-4-6",
    "claude-3-5-haiku",
    "gemini-2.5-pro",
    "mistral-large-latest",
    "Qwen/Qwen3-8B",
    "meta-llama/llama-4",
    "openai/gpt-oss-120b",
]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for maker in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{maker}_API_KEY", "key-of-a-test")
        monkeypatch.delenv(f"{maker}_BASE_URL", raising=False)
        monkeypatch.delenv(f"{maker}_CUSTOM_HEADERS", raising=False)


def read(**annotator: Any) -> RemoteAnnotatorConfig:
    """The annotator of a run."""
    found = parse_config(
        {"data": {"pool": "p.jsonl"}, "model": {"id": "m"}, "name": "paid"}
        | {"annotator": {"type": "anthropic", "guidelines": "Sort."} | annotator}
    ).annotator
    assert isinstance(found, RemoteAnnotatorConfig)
    return found


def write_body(config: RemoteAnnotatorConfig, text: str = "text") -> dict[str, Any]:
    """The body that a provider makes of a question."""
    provider: Any = build_provider(config, "paid", "annotator")
    prompt = PromptWriter(config, parse_config(SMALLEST).prompt).write(text)
    return dict(provider.encode(AnnotationRequest("e", 0, 0, prompt)))


SMALLEST = {"data": {"pool": "p", "references": "r"}, "model": {"id": "m"}, "name": "paid"}


@pytest.mark.parametrize("model", REFUSE)
def test_no_temperature_goes_to_a_model_that_refuses_it(model: str) -> None:
    assert refuses_temperature(model, None)


@pytest.mark.parametrize("model", TAKE)
def test_other_models_get_the_temperature(model: str) -> None:
    assert not refuses_temperature(model, None)
    assert not wants_completion_limit(model)


def test_a_model_that_need_not_think_takes_a_temperature() -> None:
    assert not refuses_temperature("gpt-5.4-mini", "none")
    assert refuses_temperature("gpt-5-mini", "none")  # thinks always
    assert not thinks("gpt-5.4", None, None)
    assert thinks("gpt-5.4", "low", None)
    assert not thinks("claude-haiku-5-5", "none", None)
    assert not thinks("gemini-2.5-flash-lite", None, None)


def test_votes_need_no_temperature_where_none_is_taken() -> None:
    assert read(model="claude-haiku-5-5", votes=3).votes == 3
    with pytest.raises(UserError, match=r"expected annotator.temperature above 0"):
        read(model="claude-haiku-4-5", votes=3)


def test_claude_from_opus_4_7_on_takes_no_budget_of_thought() -> None:
    line = "annotator.thinking_tokens is 2000, expected reasoning_effort in its place"
    with pytest.raises(UserError, match=line):
        read(model="claude-haiku-5-5", thinking_tokens=2000, max_output_tokens=4000)


def test_anthropic_is_told_how_much_to_think() -> None:
    low = write_body(read(model="claude-haiku-5-5", reasoning_effort="low"))
    assert low["output_config"]["effort"] == "low"
    off = write_body(read(model="claude-haiku-4-5", thinking_tokens=0))
    assert off["thinking"] == {"type": "disabled"}
    assert off["temperature"] == 0
    body = write_body(read(model="claude-haiku-4-5", thinking_tokens=1024, max_output_tokens=2000))
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert "temperature" not in body


def test_more_keys_and_headers_are_sent(provider: FakeProvider, tmp_path: Path) -> None:
    config = read(
        type="openai",
        model="m",
        base_url="http://here/v1",
        price={"input": 0, "output": 0},
        extra_body={"top_p": 0.5, "chat_template_kwargs": {"a": 1}},
        extra_headers={"X-Title": "labels"},
    )
    body = write_body(config)
    assert (body["top_p"], body["chat_template_kwargs"]) == (0.5, {"a": 1})
    built: Any = build_provider(config, "paid", "annotator")
    assert built._client.default_headers["X-Title"] == "labels"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"extra_body": {"n": 3}}, "annotator.extra_body holds 'n', expected the setting 'votes'"),
        ({"extra_body": {"model": "x"}}, "expected the setting 'model'"),
        ({"extra_headers": {"X-Api-Key": "k"}}, "expected no key in a configuration"),
        ({"extra_headers": {"a b": "k"}}, "expected a name and a value of an HTTP header"),
        ({"extra_headers": {"a": "k\nb: c"}}, "expected a name and a value of an HTTP header"),
        ({"thinking_tokens": 600}, "annotator.thinking_tokens is 600, expected 1024 or more"),
        ({"type": "openai", "dialect": "vllm"}, "annotator.dialect is 'vllm', expected base_url"),
        ({"type": "openai", "dialect": "openia"}, "did you mean 'openai'?"),
        ({"type": "openai", "dialect": "deepseek", "mode": "batch"}, "expected mode=sync"),
        ({"type": "openai", "thinking_tokens": 9}, "expected reasoning_effort in place of"),
        (
            {
                "type": "openai",
                "dialect": "gemini",
                "thinking_tokens": 9,
                "reasoning_effort": "low",
            },
            "expected either reasoning_effort or thinking_tokens",
        ),
        ({"type": "openai", "api_version": "1"}, "annotator.api_version is '1', expected base_url"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(
    settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(model="claude-haiku-4-5", price={"input": 1, "output": 1}, **settings)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("maker", ["openai", "anthropic"])
def test_the_environment_does_not_send_text_elsewhere(
    maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"openai": "gpt-4.1-mini", "anthropic": "claude-haiku-4-5"}[maker]
    config = read(type=maker, model=model)
    monkeypatch.setenv(f"{maker.upper()}_BASE_URL", "https://elsewhere.example/v1")
    with pytest.raises(UserError) as caught:
        build_provider(config, "paid", "annotator")
    assert str(caught.value).startswith(
        f"{maker.upper()}_BASE_URL is 'https://elsewhere.example/v1' in the environment, but "
        f"annotator.base_url is null"
    )
    # The provider's own address may stand there, and a base_url says where text goes.
    own = {"openai": "https://api.openai.com/v1/", "anthropic": "https://api.anthropic.com"}[maker]
    monkeypatch.setenv(f"{maker.upper()}_BASE_URL", own)
    build_provider(config, "paid", "annotator")
    price = {"input": 1, "output": 1}
    monkeypatch.setenv(f"{maker.upper()}_BASE_URL", "https://elsewhere.example/v1")
    named = read(type=maker, model=model, base_url="http://here.example", price=price)
    built: Any = build_provider(named, "paid", "annotator")
    assert str(built._client.base_url).startswith("http://here.example")
    monkeypatch.setenv(f"{maker.upper()}_CUSTOM_HEADERS", "Authorization: Bearer canary")
    with pytest.raises(UserError, match=r"expected annotator.extra_headers") as caught:
        build_provider(named, "paid", "annotator")
    assert "canary" not in str(caught.value)


def test_another_token_of_the_environment_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another")
    built: Any = build_provider(read(model="claude-haiku-4-5"), "paid", "annotator")
    assert built._client.auth_token is None


SHOTS = [{"input": "an example " * 400, "output": "a"}, {"input": "another", "output": "b"}]


def test_what_prompts_share_is_marked_for_the_cache() -> None:
    def texts(body: dict[str, Any]) -> list[str]:
        parts = [body["system"], *(turn["content"] for turn in body["messages"])]
        return [part if isinstance(part, str) else part[0]["text"] for part in parts]

    plain = write_body(read(model="claude-haiku-4-5", examples=SHOTS, prompt_cache=False))
    body = write_body(read(model="claude-haiku-4-5", examples=SHOTS))
    marked = [turn for turn in body["messages"] if not isinstance(turn["content"], str)]
    assert marked == [body["messages"][-2]]
    assert marked[0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert texts(body) == texts(plain)
    long = write_body(read(model="claude-haiku-4-5", guidelines="Sort it well. " * 400))
    assert long["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert isinstance(write_body(read(model="claude-haiku-4-5"))["system"], str)


def test_the_worst_case_is_that_the_prompt_enters_the_cache() -> None:
    config = read(model="claude-haiku-4-5", examples=SHOTS)
    prompt = PromptWriter(config, parse_config(SMALLEST).prompt).write("text")
    plain = config.model_copy(update={"prompt_cache": False})
    request = AnnotationRequest("e", 0, 0, prompt)
    dear = CostBounds(config, find_price(config, ""), None).worst(request)
    cheap = CostBounds(plain, find_price(plain, ""), None).worst(request)
    output = find_price(plain, "").nano(0, config.max_output_tokens)
    assert dear - output == pytest.approx((cheap - output) * 1.25)


def test_cached_tokens_of_anthropic_are_paid_at_their_price() -> None:
    config = read(model="claude-haiku-4-5", max_output_tokens=16)
    built: Any = build_provider(config, "paid", "annotator")
    usage = {
        "input_tokens": 50,
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 200,
        "output_tokens": 10,
    }
    answer = built.read({"content": [{"type": "text", "text": "a"}], "usage": usage})
    assert (answer.prompt_tokens, answer.cached_tokens, answer.written_tokens) == (1250, 1000, 200)
    price = find_price(config, "annotator")
    paid = price.nano(1250, 10, answer.cached_tokens, answer.written_tokens)
    assert paid == 50_000 + 100_000 + 250_000 + 50_000  # 1, 0.10, 1.25 and 5 dollars a million


@pytest.mark.parametrize("mode", ["sync", "batch"])
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_model_that_thinks_through_its_limit_pauses_the_run(
    kind: str, mode: str, provider: FakeProvider, tmp_path: Path
) -> None:
    texts = {f"e{index:02d}": f"[[cut]] row {index}" for index in range(40)}
    desk = Desk(provider, tmp_path, configure(provider, kind, mode), texts)
    with pytest.raises(RunPaused, match=r"the first \d+ answers of .* max_output_tokens"):
        desk.annotate()
    # Of single requests 5 and those in flight were billed, and none was asked again.
    assert len(provider.bills()) == (40 if mode == "batch" else pytest.approx(7, abs=3))
    balance = read_balance(desk.journal, "paid")
    assert balance.held == 0
    assert balance.paid == pytest.approx(
        sum(bill.prompt + bill.output for bill in provider.bills()) / 1000
    )


def test_one_whole_answer_among_the_first_is_enough(provider: FakeProvider, tmp_path: Path) -> None:
    texts = make_texts(1) | {f"f{index}": f"[[cut]] row {index}" for index in range(6)}
    config = configure(provider, "openai", "batch")
    labels, dead = Desk(provider, tmp_path, config, texts).annotate()
    assert len(labels) == 1
    assert len(dead) == 6


@pytest.mark.parametrize(("recovery", "told"), [("auto", 1), ("stored", 0), ("none", 0)])
def test_the_run_says_once_that_openai_keeps_what_it_is_asked(
    recovery: str, told: int, tmp_path: Path
) -> None:
    annotator = {"type": "openai", "model": "gpt-5.6-luna", "guidelines": "Sort."}
    config = parse_config(SMALLEST | {"annotator": annotator | {"recovery": recovery}})
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    journal.create_run(config.name, dump_config(config), "")
    for attempt in range(2):
        lease = journal.acquire(config.name, ProcessIdentity(f"c{attempt}"), 600, takeover=True)
        folder = RunFolder(str(tmp_path), config.name)
        Controller(
            config, journal, lease, folder, ProgressTracker(), lambda done, total: None
        ).disclose_models()
    lines = [e.payload[WARNING] for e in journal.events(config.name) if e.kind == WARNING]
    assert sum("store: true" in line for line in lines) == told
    assert len(lines) == len(set(lines))


def test_shards_are_measured_with_all_that_is_sent() -> None:
    config = read(model="claude-haiku-4-5", extra_body={"metadata": {"user_id": "x" * 5000}})
    built: Any = build_provider(config, "paid", "annotator")
    prompt = PromptWriter(config, parse_config(SMALLEST).prompt).write("text")
    request = AnnotationRequest("e", 0, 0, prompt)
    assert built.measure(request) > 5000
    assert Shard("s", (RequestAttempt("c", request, 0),), 0.0).custom_ids == {"c"}
