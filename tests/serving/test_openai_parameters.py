"""What the bodies of the OpenAI API take, and the prompts and answers that tools become."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.chat_templates import build_tokenizer
from pydantic import ValidationError
from transformers import AutoTokenizer

from atgen_ray.config import PromptConfig
from atgen_ray.engines.base import TokenRules, TokenStep
from atgen_ray.engines.sglang_sampling import name_sampling
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.chat_prompts import render_chat
from atgen_ray.serving.replicas.openai_responses import Answer, Choice
from atgen_ray.serving.replicas.token_requests import RequestBuilder
from atgen_ray.serving.replicas.tool_calls import CallReader, read_message
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody

TURNS: Any = [{"role": "user", "content": "How warm is it?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
CONVERSATION: Any = [
    {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    *TURNS,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"place": "Oslo"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "cold"},
]
NATIVE = (
    "{% if tools %}TOOLS {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL {{ c.function.arguments.place }}{% endfor %}"
    "{% endfor %}"
)


def chat(**given: Any) -> ChatBody:
    return ChatBody.model_validate({"model": "m", "messages": TURNS, **given})


def complete(**given: Any) -> CompletionBody:
    return CompletionBody.model_validate({"model": "m", "prompt": "Sort", **given})


@pytest.fixture(scope="module")
def tokenizer(tiny_model: str) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def builder(tokenizer: Any) -> RequestBuilder:
    service: Any = SimpleNamespace(
        target_model=SimpleNamespace(max_prompt_tokens=100, max_new_tokens=20),
        limits=SimpleNamespace(output_tokens=50),
    )
    return RequestBuilder(service, tokenizer, scores_prompts=False)


def test_what_cannot_harm_is_taken_and_named() -> None:
    body = chat(
        user="u",
        metadata={"a": "b"},
        store=False,
        reasoning_effort="low",
        parallel_tool_calls=True,
        temperature=None,
        stream_options={"include_usage": True},
    )
    assert body.ignored == ["user", "metadata", "store", "reasoning_effort", "stream_options"]
    assert body.temperature == 1.0
    assert chat().ignored == []
    assert complete(stream=True, stream_options={"include_usage": True}).ignored == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"temprature": 1}, "temperature"),
        ({"functions": []}, "functions"),
        ({"tool_choice": "required"}, "expected tools beside it"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "wether"}}},
            "did you mean 'weather'",
        ),
        ({"tools": [TOOL, TOOL]}, "two tools have one name"),
        ({"response_format": {"type": "json_schema"}}, "json_schema is expected"),
        ({"modalities": ["text", "audio"]}, "text"),
        ({"repetition_penalty": 1.2}, "equal to 1"),
        ({"logit_bias": {"the": 1}}, "'the' is no token id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "a part of type 'image_url', expected text",
        ),
        ({"messages": [{"role": "assistant"}]}, "no content"),
    ],
)
def test_what_would_make_a_wrong_answer_is_refused_in_one_line(given: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        chat(**given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "expected n"),
        ({"max_tokens": 0}, "expected echo=true"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[1, -2]]}, "prompt"),
    ],
)
def test_completions_refuse_what_they_cannot_do(given: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        complete(**given)


def test_prompts_may_be_texts_or_tokens(builder: RequestBuilder, tokenizer: Any) -> None:
    text = tokenizer.encode("Sort")
    for prompt, expected in (
        ("Sort", [text]),
        (["Sort", "Sort"], [text, text]),
        (text, [text]),
        ([text, [5]], [text, [5]]),
    ):
        found = builder.build(complete(prompt=prompt, max_tokens=3), None)
        assert [list(request.token_ids) for request in found] == expected
    with pytest.raises(ApiError, match="token id 49152 is unknown, expected 0 to 49151"):
        builder.build(complete(prompt=[49152]), None)
    with pytest.raises(ApiError, match="logprobs is not known to SGLang"):
        builder.build(complete(echo=True, logprobs=1), None)


def test_settings_reach_the_engine_and_none_leaves_it_alone(builder: RequestBuilder) -> None:
    (plain,) = builder.build(chat(seed=-1), None)
    assert plain.rules is None
    assert plain.seed == 2**31 - 1
    body = chat(
        ignore_eos=True,
        min_tokens=2,
        logit_bias={"7": -100},
        top_k=-1,
        stop_token_ids=[9],
        presence_penalty=0.5,
        response_format={"type": "json_object"},
    )
    (request,) = builder.build(body, None)
    rules = request.rules
    assert isinstance(rules, TokenRules)
    assert (rules.min_tokens, rules.logit_bias, rules.top_k) == (2, {7: -100.0}, 0)
    sampling = name_sampling(request, [2])
    assert sampling["stop_token_ids"] == [9]
    assert sampling["logit_bias"] == {"7": -100.0}
    assert json.loads(sampling["json_schema"])["type"] == "object"


def test_a_tuned_model_is_asked_as_it_was_trained_and_the_base_model_may_think() -> None:
    tokenizer = build_tokenizer("qwen3")
    prompt = PromptConfig(system="Be brief.")
    trained = PromptBuilder(tokenizer, prompt, 200).render("How warm is it?")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How warm is it?"},
    ]
    body = chat(messages=turns)
    assert render_chat(tokenizer, body, True) == trained
    assert trained == render_chat(tokenizer, body, False) + "<think>\n\n</think>\n\n"


def test_tools_are_told_by_the_template_or_in_a_system_message(tokenizer: Any) -> None:
    body = chat(messages=CONVERSATION, tools=[TOOL])
    told = render_chat(tokenizer, body, False)
    assert told.startswith("<|im_start|>system\nBe brief.\n\nYou may call functions")
    assert '"name": "weather"' in told
    assert '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}' in told
    assert "<tool_response>\ncold\n</tool_response>" in told
    assert "weather" not in render_chat(tokenizer, chat(tools=[TOOL], tool_choice="none"), False)
    native = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    native.chat_template = NATIVE
    shown = render_chat(native, body, False)
    assert shown.startswith("TOOLS [{")
    assert shown.endswith("[system]Be brief.[user]How warm is it?[assistant]CALL Oslo[tool]cold")


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("It is cold.", "It is cold.", 0),
        ('Wait. <tool_call>\n{"name": "weather", "arguments": {"a": 1}}\n</tool_call>', "Wait.", 1),
        ('{"name": "weather", "parameters": {"a": 1}}', None, 1),
        ('[TOOL_CALLS] [{"name": "weather", "arguments": {}}, {"name": "weather"}]', None, 2),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', 0),
        ('Say {"name": "weather"} then.', 'Say {"name": "weather"} then.', 0),
        ("<tool_call>\n{broken", "<tool_call>\n{broken", 0),
    ],
)
def test_calls_are_read_from_the_text(text: str, content: str | None, calls: int) -> None:
    said, found = read_message(text, {"weather"})
    assert (said, len(found)) == (content, calls)
    assert all(json.loads(call["function"]["arguments"]) in ({}, {"a": 1}) for call in found)


def test_a_stream_holds_a_call_back_until_it_is_whole() -> None:
    body = chat(tools=[TOOL], parallel_tool_calls=False)
    reader = CallReader(body)
    call = '{"name": "weather", "arguments": {}}'
    first = [{"index": 0, "delta": {"content": f"<tool_call>{call}"}, "finish_reason": None}]
    last = [
        {
            "index": 0,
            "delta": {"content": f"</tool_call><tool_call>{call}"},
            "finish_reason": "stop",
        }
    ]
    reader.hold_back(first)
    reader.hold_back(last)
    assert first[0]["delta"] == {}
    assert [each["function"]["name"] for each in last[0]["delta"]["tool_calls"]] == ["weather"]  # type: ignore[index]
    assert last[0]["finish_reason"] == "tool_calls"


def decode(tokens: Any) -> str:
    return "".join(f"w{token} " for token in tokens)


def test_an_echo_comes_first_with_its_probabilities() -> None:
    prompt = (TokenStep(6, -0.5, 0.0, [(6, -0.5)]), TokenStep(7, -1.5, 0.0, [(9, -0.1)]))
    for tokens, texts in ((1, ["w5 ", "w6 ", "w7 ", "w8 "]), (0, ["w5 ", "w6 ", "w7 "])):
        body = complete(echo=True, logprobs=1, max_tokens=tokens)
        choice = Choice(0, 3, decode, [], [], echo=[5, 6, 7], bare=tokens == 0)
        choice.add(TokenStep(8, -2.5, 0.0, [(8, -2.5)], "length", prompt))
        answer = Answer(body, [choice], "f").whole()
        shown = answer["choices"][0]
        assert shown["text"] == "".join(texts)
        assert shown["logprobs"]["tokens"] == texts
        assert shown["logprobs"]["token_logprobs"] == [None, -0.5, -1.5, -2.5][: len(texts)]
        assert shown["logprobs"]["top_logprobs"][:3] == [None, {"w6 ": -0.5}, {"w9 ": -0.1}]
        assert shown["logprobs"]["text_offset"] == [0, 3, 6, 9][: len(texts)]
        assert answer["usage"]["completion_tokens"] == tokens
