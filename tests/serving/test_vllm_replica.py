"""Real vLLM replicas (CPU build) in Ray's LLM layer, and a replica with SGLang's real server: each
answer comes from the adapter asked for.
"""

import asyncio
import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from helpers.services import continue_greedily
from ray.exceptions import TaskCancelledError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig, ServiceConfig
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import at_path
from atgen_ray.engines.adapter_check import Effect, compare_effects, score_outputs
from atgen_ray.engines.adapter_probe import Probe, compare_answers, measure_probes
from atgen_ray.engines.base import TokenRequest
from atgen_ray.engines.generation import generate_features
from atgen_ray.engines.serve_engine import ServeEngine
from atgen_ray.engines.transformers_engine import TransformersEngine
from atgen_ray.models.loading import digest_adapter, load_tokenizer, load_unmerged
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.serving.application import build_application
from atgen_ray.serving.replicas import adapter_probe
from atgen_ray.serving.replicas.adapter_directory import Adapter
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.database import Database
from atgen_ray.store.run_folder import RunFolder

PROMPT = "Sort: red blue green"
TURNS: Any = [{"role": "user", "content": "Count."}]
APP = "atgen-vllm"


@pytest.fixture(scope="module", params=["vllm-merged", "vllm-name", "sglang-name"])
def replica(
    serve_url: str, arguments: dict[str, Any], request: pytest.FixtureRequest
) -> Iterator[Any]:
    """A handle of one replica: with vLLM, adapters in its weights and by name; with SGLang, by name.

    The model is in bfloat16, which must be seen in no answer: replicas compute in float32.
    """
    from ray import serve

    backend, adapters = request.param.split("-")
    engine = {
        "backend": backend,
        "threads_per_worker": 1,
        "cpus_per_worker": 0.5,
        "adapters": adapters,
    }
    model = arguments["model"] | {"dtype": "bfloat16"}
    replica = {"turn_seconds": 0.2, "adapters": 2}
    application = build_application(
        arguments | {"model": model, "engine": engine, "replica": replica}
    )
    serve.run(application, name=APP, route_prefix="/vllm")
    yield serve.get_deployment_handle("model", app_name=APP)
    serve.delete(APP)


def test_on_a_cpu_the_engine_has_no_worker_process_no_scheduler_beside_it_and_not_every_core(
    ray_session: None, arguments: dict[str, Any]
) -> None:
    """Each of them takes a tenth to a fifth of the engine's time: `benchmarks/serving.py`.

    vLLM is not imported here: what its compiled parts do to a process must not reach all other tests.
    """

    def prepare() -> tuple[str, str, bool, int]:
        from atgen_ray.ray_runtime.private_api import vllm_engine_class
        from atgen_ray.serving.replicas import base
        from atgen_ray.serving.replicas import vllm as vllm_replica

        service = ServiceConfig(**arguments | {"engine": {"backend": "vllm"}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(base, "count_threads", lambda workers, asked: 8)
            config = vllm_replica.configure_vllm(service)
            settings, _, found = vllm_engine_class()(config)._prepare_engine_config(None)
            return (
                settings.distributed_executor_backend,
                found.parallel_config.distributed_executor_backend,
                found.scheduler_config.async_scheduling,
                base.count_engine_threads(service),
            )

    once = ray.remote(num_cpus=0.1, max_calls=1)(prepare)  # in a process that ends with it
    assert ray.get(once.remote()) == ("uni", "uni", False, 7)


def expect(model: str, adapter: Path | None, tokens: int) -> list[float]:
    """Log-probabilities of the greedy answer by transformers and peft."""
    return continue_greedily(model, adapter, PROMPT, tokens)[1]


def test_mixed_requests_each_get_their_own_adapter(
    replica: Any, storage: Path, tiny_model: str
) -> None:
    """The base model after an adapter too.

    There vLLM leaves the tied output layer stale on reload, and with no free slot gives the base
    model an adapter.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt = tokenizer(PROMPT).input_ids
    folders = {
        name: storage / f"runs/sort/rounds/00{name[-1]}/adapter" for name in ("sort-1", "sort-2")
    }

    def ask(name: str | None) -> list[float]:
        digest = digest_adapter(folders[name]) if name else None
        [steps] = replica.generate.remote([TokenRequest(prompt, 8, adapter=name)], digest).result()
        return [step.logprob for step in steps]

    names = [None, "sort-1", "sort-2"] * 4
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, names))
    expected = {
        name: expect(tiny_model, folders[name] if name else None, 8) for name in (None, *folders)
    }
    for name, answer in zip(names, answers, strict=True):
        assert answer == pytest.approx(expected[name], abs=2e-3), name
    assert max(abs(a - b) for a, b in zip(expected[None], expected["sort-1"], strict=True)) > 0.02


def test_an_adapter_with_new_weights_under_its_old_name_is_a_new_one(
    replica: Any, storage: Path, tiny_model: str
) -> None:
    """vLLM goes on with the old weights where a number or a name comes again."""
    prompt = AutoTokenizer.from_pretrained(tiny_model)(PROMPT).input_ids
    folder, kept = storage / "runs/sort/rounds/002/adapter", storage / "kept"
    shutil.copytree(folder, kept)
    weights = load_file(folder / "adapter_model.safetensors")
    try:
        save_file(
            {name: -1.5 * tensor for name, tensor in weights.items()},
            folder / "adapter_model.safetensors",
        )
        request = TokenRequest(prompt, 8, adapter="sort-2")
        [steps] = replica.generate.remote([request], digest_adapter(folder)).result()
        assert [step.logprob for step in steps] == pytest.approx(
            expect(tiny_model, folder, 8), abs=2e-3
        )
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


def test_the_smallest_adapter_has_its_whole_effect(
    replica: Any, storage: Path, arguments: dict[str, Any], slight_adapter: Path
) -> None:
    model = ModelConfig(**arguments["model"])
    texts = [f"{PROMPT} {n}" for n in range(64)]
    tokenizer = AutoTokenizer.from_pretrained(model.id)
    builder = PromptBuilder(tokenizer, PromptConfig(), model.max_prompt_tokens)
    folder, kept = storage / "runs/sort/rounds/002/adapter", storage / "kept"
    folder.rename(kept)
    shutil.copytree(slight_adapter, folder)
    try:
        requests = [TokenRequest(builder.encode(text), 8, adapter="sort-2") for text in texts]
        answers = replica.generate.remote(requests, digest_adapter(folder)).result()
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)
    pairs = [
        (text, [step.token for step in steps]) for text, steps in zip(texts, answers, strict=True)
    ]
    found = [[step.logprob for step in steps] for steps in answers]
    effect = compare_effects(
        found, *score_outputs(pairs, model, PromptConfig(), at_path(slight_adapter))
    )
    assert effect.size > 1e-4
    assert effect.slope == pytest.approx(1.0, abs=0.03)


def test_the_engine_tells_an_adapter_by_what_its_training_answered(
    replica: Any, storage: Path, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own answers, and where they differ by scoring those of the training; the base model is
    not loaded once more.
    """
    model = ModelConfig(**arguments["model"])
    folder = storage / "runs/sort/rounds/001/adapter"
    weights = digest_adapter(folder)
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), model.max_prompt_tokens)
    fields = measure_probes(load_unmerged(model, folder), folder, builder, 2)
    adapter = Adapter("sort-1", at_path(folder), folder, weights, [Probe(**f) for f in fields])
    effects: list[Effect] = []

    async def complete(request: TokenRequest) -> list[Any]:
        named = [replace(request, adapter="sort-1")]
        [steps] = await asyncio.to_thread(lambda: replica.generate.remote(named, weights).result())
        return list(steps)

    async def stray(request: TokenRequest) -> list[Any]:
        steps = await complete(request)
        return steps if request.answer_ids else [replace(step, token=0) for step in steps]

    def note(*pair: Any) -> Effect:
        effects.append(compare_answers(*pair))
        return effects[-1]

    monkeypatch.setattr(adapter_probe, "compare_answers", note)
    service = ServiceConfig(**arguments)
    for ask in (complete, stray):
        asyncio.run(adapter_probe.check_outputs(service, builder, adapter, ask))
    assert len(effects) == 2
    for effect in effects:
        assert effect.size > 1e-3
        assert effect.is_within(0.03)


def test_callers_who_leave_at_any_stage_take_nothing_from_the_others(
    replica: Any, storage: Path, tiny_model: str
) -> None:
    """Also while an adapter loads and is checked: half a one must not answer under its name."""
    from ray.serve.exceptions import RequestCancelledError

    from atgen_ray.serving.schemas.chat import ChatBody

    prompt = AutoTokenizer.from_pretrained(tiny_model)(PROMPT).input_ids
    folders = {
        name: storage / f"runs/sort/rounds/00{name[-1]}/adapter" for name in ("sort-1", "sort-2")
    }
    expected = {name: expect(tiny_model, folder, 8) for name, folder in folders.items()}
    chance = random.Random(3)

    def leave() -> None:
        name, kind = chance.choice([*folders]), chance.choice(["stream", "whole", "run"])
        body = ChatBody(
            model=f"tiny:{name}",
            messages=TURNS,
            temperature=0,
            max_tokens=300,
            stream=kind == "stream",
        )
        if kind == "stream":
            asked = replica.options(stream=True).answer.remote(body)
        elif kind == "whole":
            asked = replica.answer_whole.remote(body)
        else:
            requests = [TokenRequest(prompt, 300, adapter=name)] * 4
            asked = replica.generate.remote(requests, digest_adapter(folders[name]))
        time.sleep(chance.choice([0.0, 0.01, 0.1, 0.5]))
        asked.cancel()
        with suppress(RequestCancelledError, asyncio.CancelledError, TaskCancelledError):
            assert list(asked) if kind == "stream" else asked.result()

    def stay(number: int) -> None:
        name = chance.choice([*folders])
        request = TokenRequest(prompt, 8, adapter=name)
        [steps] = replica.generate.remote([request], digest_adapter(folders[name])).result()
        assert [step.logprob for step in steps] == pytest.approx(expected[name], abs=2e-3), number

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda number: stay(number) if number % 3 == 2 else leave(), range(36)))
    assert replica.broadcast("check_health").results() == [None]


def test_an_adapter_of_another_storage_is_refused(replica: Any) -> None:
    with pytest.raises(Exception, match="not the one of the run"):
        replica.generate.remote([TokenRequest([5, 9], 2, adapter="sort-1")], "0" * 64).result()


def test_without_a_gpu_the_engine_says_that_it_cannot_sleep(replica: Any) -> None:
    assert replica.broadcast("sleep", "sort").results() == [False]
    assert replica.broadcast("wake", "sort").results() == [None]


def test_ray_data_streams_a_pool_through_the_replicas(
    replica: Any, storage: Path, tiny_model: str, arguments: dict[str, Any]
) -> None:
    """As a run with `model.host: serve` does: the features of an adapter, equal to those of a run's
    own engine.
    """
    model = ModelConfig(**arguments["model"])
    folder = RunFolder(str(storage), "sort")
    examples = pa.table(
        {"id": [f"{n:02}" for n in range(24)], "text": [f"{PROMPT} {n}" for n in range(24)]}
    )
    adapter = at_path(storage / "runs/sort/rounds/002/adapter")
    served = ServeEngine(model, PromptConfig(), EngineConfig(), folder, app=APP)
    own = TransformersEngine(model, PromptConfig(), EngineConfig(threads_per_worker=1))
    features, expected = (
        generate_features(
            engine,
            examples,
            GenerationRequest(8),
            adapter,
            folder,
            parts=f"tests/{engine.name}",
            batch_size=8,
            progress=lambda done, total: None,
        ).to_pylist()
        for engine in (served, own)
    )
    assert [row["error"] for row in features] == [None] * 24
    for row, twin in zip(features, expected, strict=True):
        assert (row["id"], row["token_ids"]) == (twin["id"], twin["token_ids"])
        assert row["logprobs"] == pytest.approx(twin["logprobs"], abs=2e-3)


def test_chat_comes_whole_and_as_a_stream(replica: Any) -> None:
    from atgen_ray.serving.schemas.chat import ChatBody
    from atgen_ray.serving.schemas.openai import StreamOptions

    turns: Any = [{"role": "user", "content": "Count."}]
    body = ChatBody(model="tiny:sort-1", messages=turns, temperature=0, max_tokens=4, stream=True)
    events = list(replica.options(stream=True).answer.remote(body))
    assert events[-1].strip() == "data: [DONE]"
    assert all('"model": "tiny:sort-1"' in event and "usage" not in event for event in events[:-1])
    assert re.search(r'"system_fingerprint": "(vllm|sglang)-[0-9a-f]{16}"', events[0])
    answer = replica.answer_whole.remote(body.model_copy(update={"stream": False})).result()
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("tiny:sort-1", 4)
    told = [json.loads(event.removeprefix("data: "))["choices"] for event in events[:-1]]
    streamed = "".join(
        choice["delta"].get("content") or "" for choices in told for choice in choices
    )
    assert answer["choices"][0]["message"]["content"] == streamed
    asked = body.model_copy(update={"stream_options": StreamOptions(include_usage=True)})
    *_, last, _ = replica.options(stream=True).answer.remote(asked)
    told_last = json.loads(last.removeprefix("data: "))
    assert (told_last["choices"], told_last["usage"]["completion_tokens"]) == ([], 4)


def test_a_schema_holds_in_each_engine(replica: Any) -> None:
    """The grammar lets a random model write no white space for ever: its answer has an end."""
    from atgen_ray.serving.schemas.chat import ChatBody

    schema = {
        "type": "object",
        "properties": {"sky": {"enum": ["clear", "grey"]}, "warm": {"type": "boolean"}},
        "required": ["sky", "warm"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    asked = {"model": "tiny:sort-1", "messages": TURNS, "max_tokens": 40, "response_format": form}
    answer = replica.answer_whole.remote(ChatBody.model_validate(asked)).result()
    told = json.loads(answer["choices"][0]["message"]["content"])
    assert set(told) == {"sky", "warm"}
    assert told["sky"] in ("clear", "grey")
    assert isinstance(told["warm"], bool)


def test_callers_come_in_by_their_token_and_stream(
    replica: Any, serve_url: str, storage: Path
) -> None:
    import openai

    tokens = Tokens(Database(f"sqlite:///{storage}/atgen.db"))
    url = f"{serve_url}/vllm/v1"
    ask: dict[str, Any] = {"model": "tiny:sort-2", "messages": TURNS, "temperature": 0}
    stranger = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(**ask, max_tokens=6)
    client = openai.OpenAI(base_url=url, api_key=tokens.create("admin", "tests"), max_retries=0)
    whole = client.chat.completions.create(**ask, max_tokens=6)
    chunks = list(client.chat.completions.create(**ask, max_tokens=6, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6


def test_tokens_of_a_stream_are_counted_though_nobody_hears_its_end() -> None:
    from atgen_ray.serving.replicas.vllm_responses import VLLMAnswer
    from atgen_ray.serving.schemas.openai import CompletionBody

    def event(index: int, tokens: int) -> str:
        choice = {"index": index, "text": "word", "finish_reason": None}
        return (
            f"data: {json.dumps({'choices': [choice], 'usage': {'completion_tokens': tokens}})}\n\n"
        )

    answer = VLLMAnswer(
        CompletionBody(model="tiny", prompt=["a", "b"], stream=True), "base", "vllm-base", None
    )
    shown = [answer.show(event(*each)) for each in [(0, 1), (1, 1), (0, 5), (1, 4)]]
    assert answer.tokens == 9
    assert all(isinstance(each, str) and "usage" not in each for each in shown)
    assert answer.request().stream_options is not None
    assert (
        VLLMAnswer(CompletionBody(model="tiny", prompt="a"), "base", "vllm-base", None)
        .request()
        .stream_options
        is None
    )


def test_tools_schemas_and_ignored_parameters_reach_vllm_in_its_form(tiny_model: str) -> None:
    from atgen_ray.serving.replicas.vllm_responses import VLLMAnswer
    from atgen_ray.serving.schemas.chat import ChatBody
    from atgen_ray.serving.schemas.openai import CompletionBody

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    body = ChatBody.model_validate(
        {
            "model": "tiny",
            "messages": TURNS,
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "required",
            "user": "somebody",
            "store": True,
            "stream_options": {"include_usage": True},
            "logit_bias": {"7": 1},
        }
    )
    answer = VLLMAnswer(body, "base", "vllm-base", tokenizer)
    asked = answer.request()
    assert "weather" in asked.messages[0]["content"]  # the template has no section of tools
    assert (asked.tools, asked.stream_options, asked.logit_bias) == (None, None, {"7": 1.0})
    schema = asked.response_format.json_schema.json_schema
    assert schema["properties"]["name"] == {"const": "weather"}
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    native = VLLMAnswer(body, "base", "vllm-base", tokenizer).request()
    assert [tool.function.name for tool in native.tools] == ["weather"]
    assert native.tool_choice == "none"  # its parser reads no calls: ours does
    assert native.chat_template_kwargs is None
    tuned = VLLMAnswer(body, "sort-1", "vllm-sort-1", tokenizer, tuned=True).request()
    assert tuned.chat_template_kwargs == {"enable_thinking": False}
    event = {
        "choices": [
            {
                "index": 0,
                "delta": {"content": '{"name": "weather", "arguments": {}}'},
                "finish_reason": "stop",
            }
        ]
    }
    shown = answer.show(f"data: {json.dumps(event)}\n\n")
    choice = json.loads(str(shown).removeprefix("data: "))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["delta"]["tool_calls"][0]["function"]["name"] == "weather"
    echo = CompletionBody(model="tiny", prompt=[[1, 2]], echo=True, logprobs=1, max_tokens=0)
    scored = VLLMAnswer(echo, "base", "vllm-base", None).request()
    assert (scored.prompt, scored.echo, scored.max_tokens) == ([[1, 2]], True, 0)
