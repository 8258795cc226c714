"""SGLang's real server, by way of the engine: one server for all tests, adapters by name, and the
shape of its answers, which the stand-in must have.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import ray
from helpers.fakes import sglang_wire

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.stored import at_path
from atgen_ray.engines import sglang_launcher
from atgen_ray.engines.adapter_check import score_outputs
from atgen_ray.engines.base import TokenRequest
from atgen_ray.engines.sglang_engine import ServerActor, SGLangEngine
from atgen_ray.engines.sglang_python import find_python
from atgen_ray.engines.sglang_server import SGLangServer
from atgen_ray.engines.sglang_settings import ServerSettings
from atgen_ray.engines.sglang_weights import BASE, choose_weights
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder


@pytest.fixture
def actor(open_engine: Callable[..., SGLangEngine], model: ModelConfig) -> Any:
    """The actor of the one server."""
    config = EngineConfig(backend="sglang", threads_per_worker=1)
    (found,) = open_engine(model, PromptConfig(), config).open_servers(BASE)
    return found


def test_drawn_samples_have_the_probabilities_before_temperature(
    actor: Any, model: ModelConfig
) -> None:
    """SGLang's own are those of logits over temperature, cut to top_p."""
    texts = ["count to one", "count to two", "name a colour"]
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), model.max_prompt_tokens)
    requests = [
        TokenRequest(builder.encode(text), 8, temperature=heat, top_p=0.9, top_logprobs=3)
        for text, heat in zip(texts, (0.0, 0.7, 1.8), strict=True)
    ]
    answers = ray.get(actor.generate.remote(requests, BASE))
    pairs = [(text, [step.token for step in row]) for text, row in zip(texts, answers, strict=True)]
    expected, _ = score_outputs(pairs, model, PromptConfig(), at_path(Path(model.id)))
    for row, true in zip(answers, expected, strict=True):
        np.testing.assert_allclose([step.logprob for step in row], true, atol=1e-4)


def test_requests_side_by_side_have_adapters_of_their_own(
    actor: Any, adapter: Path, slight_adapter: Path
) -> None:
    """Each is answered with its own weights, and the base model with none."""
    requests = [TokenRequest([5, 9, 200], 6)]
    kinds = [
        BASE,
        choose_weights(at_path(adapter), "auto"),
        choose_weights(at_path(slight_adapter), "auto"),
    ]
    alone = [ray.get(actor.generate.remote(requests, kind)) for kind in kinds]
    together = ray.get([actor.generate.remote(requests, kind) for kind in kinds * 3])
    for place, (row,) in enumerate(together):
        (expected,) = alone[place % 3]
        assert [step.token for step in row] == [step.token for step in expected]
        np.testing.assert_allclose(
            [step.logprob for step in row], [step.logprob for step in expected], atol=1e-4
        )
    first, other, slight = ([step.logprob for step in rows[0]] for rows in alone)
    assert np.abs(np.subtract(first, other)).max() > 0.1
    assert 0 < np.abs(np.subtract(first, slight)).max() < 0.1


def test_what_would_end_the_server_is_refused_and_the_rest_answered(actor: Any) -> None:
    pid = ray.get(actor.wait_ready.remote())
    for prompt in ([], [10**6]):
        with pytest.raises(RuntimeError, match=r"the prompt (is empty|has the token id)"):
            ray.get(actor.generate.remote([TokenRequest(prompt, 4)], BASE))
    with pytest.raises(RuntimeError, match=r"SGLang: .*longer than the model's context length"):
        ray.get(actor.generate.remote([TokenRequest([5] * 500, 4)], BASE))
    assert ray.get(actor.generate.remote([TokenRequest([5], 2)], BASE))
    assert ray.get(actor.wait_ready.remote()) == pid


BODY = {
    "input_ids": [[5, 6, 7]],
    "sampling_params": [{"max_new_tokens": 3, "temperature": 0.0}],
    "return_logprob": True,
    "top_logprobs_num": 2,
}


def list_exchanges(adapter: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Requests whose answers the real server and the stand-in give in the same shape."""
    return [
        ("/health", None),
        ("/model_info", None),
        ("/load_lora_adapter", {"lora_name": "shape", "lora_path": adapter}),
        ("/load_lora_adapter", {"lora_name": "none", "lora_path": "/nowhere"}),
        ("/generate", BODY | {"lora_path": ["shape"]}),
        ("/generate", BODY | {"lora_path": ["unknown"]}),
        ("/release_memory_occupation", {}),
        ("/resume_memory_occupation", {}),
    ]


async def exchange(url: str, token: str, exchanges: list[Any]) -> list[tuple[int, Any]]:
    """Status and JSON of each answer; the first is one without a key."""
    key = {"authorization": f"Bearer {token}"}
    answers = []
    async with aiohttp.ClientSession() as session:
        asked = [({}, *exchanges[1]), *((key, *each) for each in exchanges)]
        for headers, path, body in asked:
            method = "GET" if body is None else "POST"
            async with session.request(method, url + path, json=body, headers=headers) as got:
                text = await got.text()
                answers.append((got.status, json.loads(text) if text else None))
    return answers


def describe(value: Any) -> Any:
    """The shape of JSON: types in place of values; a list has that of its first entry."""
    if isinstance(value, dict):
        return {key: describe(each) for key, each in value.items()}
    if isinstance(value, list):
        return [describe(each) for each in value[:1]] if isinstance(value[:1], list) else []
    return "number" if type(value) in (int, float) else type(value).__name__


def assert_within(fake: Any, real: Any, place: str) -> None:
    """Whatever the stand-in says, the real server says in the same form; it may say more."""
    if isinstance(fake, dict):
        assert isinstance(real, dict), place
        for key, value in fake.items():
            assert key in real, f"{place}.{key}"
            assert_within(value, real[key], f"{place}.{key}")
    elif isinstance(fake, list) and fake and real:
        assert_within(fake[0], real[0], f"{place}[0]")
    else:
        assert fake == real, place


def look_inside(actor: ServerActor) -> tuple[ServerSettings, str, str]:
    """Settings, address and key of the server of an actor."""
    server = actor._server
    assert server._child is not None
    return server._settings, server._child.url, server._child.key


def test_the_stand_in_answers_in_the_shape_of_the_real_server(
    actor: Any, model: ModelConfig, adapter: Path, tmp_path: Path
) -> None:
    exchanges = list_exchanges(str(adapter))

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    settings, url, token = ray.get(actor.__ray_call__.remote(look_inside))

    async def ask_fake() -> list[tuple[int, Any]]:
        command = [sys.executable, sglang_wire.__file__, str(tmp_path)]
        server = SGLangServer(settings, [2], command)
        try:
            await server.start()
            child = server._child
            assert child is not None
            return await exchange(child.url, child.key, exchanges)
        finally:
            await server.close()

    real = asyncio.run(exchange(url, token, exchanges))
    fake = asyncio.run(ask_fake())
    assert [status for status, _ in fake] == [status for status, _ in real]
    asked = ["/model_info", *(path for path, _ in exchanges)]
    for path, (_, said), (_, true) in zip(asked, fake, real, strict=True):
        assert_within(describe(said), describe(true), path)


def test_sglang_knows_the_arguments_for_gpus(model: ModelConfig) -> None:
    """Read by its own parser: there is no GPU to start with them."""
    python = find_python()
    assert python is not None
    code = (
        "import json, sys\n"
        "from sglang.srt.server_args import prepare_server_args\n"
        "found = prepare_server_args(json.loads(sys.argv[1]))\n"
        "print(found.tp_size, found.max_lora_rank, found.mem_fraction_static, found.enable_memory_saver)"
    )
    options = {"enable_memory_saver": True, "mem_fraction_static": 0.7}
    settings = ServerSettings(model, "bfloat16", lora_rank=64, cuda=True, gpus=4.0, options=options)
    arguments = json.dumps(settings.list_arguments(1234, "key"))
    environment = settings.build_environment(own_python=True) | {sglang_launcher.CPU: "1"}
    launcher = f"import sys; sys.path.insert(0, {str(Path(sglang_launcher.__file__).parent)!r})\n"
    done = subprocess.run(
        [python, "-c", launcher + "import sglang_launcher\n" + code, arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["4", "64", "0.7", "True"], done.stderr
