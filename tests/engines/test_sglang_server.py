"""What happens around SGLang's server when it dies, hangs or must be ended, by a stand-in of its
native API; and its arguments.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.fakes import sglang_wire

from atgen_ray.config import EngineConfig, ModelConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.stored import at_path
from atgen_ray.engines import sglang_launcher, sglang_server
from atgen_ray.engines.base import TokenRequest
from atgen_ray.engines.choice import choose_backend
from atgen_ray.engines.sglang_answers import SGLangError
from atgen_ray.engines.sglang_python import PYTHON_VARIABLE, find_python
from atgen_ray.engines.sglang_server import SGLangServer
from atgen_ray.engines.sglang_settings import ServerSettings
from atgen_ray.engines.sglang_weights import BASE, Weights, choose_weights

REQUESTS = [TokenRequest([5, 6, 7], 3), TokenRequest([8], 2, temperature=1.0, seed=4)]
Use = Callable[[SGLangServer], Awaitable[Any]]


class Wire:
    """The stand-in's folder, and servers that are the stand-in."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self.settings = ServerSettings(
            ModelConfig(id=model, max_prompt_tokens=50, max_new_tokens=10), "float32", lora_rank=8
        )

    def rule(self, *rules: dict[str, Any]) -> None:
        """The rules of the next starts."""
        (self.folder / "rules.json").write_text(json.dumps(rules))

    def use(self, use: Use, answer_seconds: float = 30.0) -> Any:
        """What `use` returns, given a server that is ended afterwards."""

        async def run() -> Any:
            command = [sys.executable, sglang_wire.__file__, str(self.folder)]
            server = SGLangServer(self.settings, [2], command, answer_seconds)
            try:
                return await use(server)
            finally:
                await server.close()

        return asyncio.run(run())

    def ask(self, weights: Weights = BASE, **settings: float) -> list[list[int]]:
        """The tokens of the answers to `REQUESTS`."""
        answers = self.use(lambda server: server.generate(REQUESTS, weights), **settings)
        return [[step.token for step in steps] for steps in answers]

    def list_log(self) -> list[dict[str, Any]]:
        """What the stand-in was asked."""
        return [json.loads(line) for line in (self.folder / "log.jsonl").open()]

    def count_starts(self) -> int:
        return sum("start" in entry for entry in self.list_log())


@pytest.fixture
def wire(tmp_path: Path, tiny_model: str) -> Wire:
    return Wire(tmp_path, tiny_model)


ANSWERED = [[7, 7, 7], [8, 8]]


def test_an_answer_has_the_steps_of_each_request(wire: Wire) -> None:
    first, _ = wire.use(lambda server: server.generate(REQUESTS, BASE))
    assert [step.logprob for step in first] == [-1.0, -2.0, -3.0]
    assert first[1].top == [(7, -2.0), (8, -3.0)]
    assert [step.finish for step in first] == [None, None, "length"]


def test_a_server_without_room_for_adapters_is_asked_for_none(wire: Wire) -> None:
    """SGLang refuses even null there."""
    wire.settings = replace(wire.settings, lora_rank=0)
    assert wire.ask() == ANSWERED


def test_a_server_that_dies_in_mid_request_is_started_again_with_its_adapter(
    wire: Wire, tmp_path: Path
) -> None:
    wire.rule({"die": 1}, {"die": 1})
    assert wire.ask(Weights("name", "abc", at_path(tmp_path))) == ANSWERED
    assert wire.count_starts() == 3
    loads = [entry for entry in wire.list_log() if entry.get("path") == "/load_lora_adapter"]
    assert [entry["body"]["lora_name"] for entry in loads] == ["abc"] * 3


def test_a_server_that_dies_between_requests_is_started_again(wire: Wire) -> None:
    async def use(server: SGLangServer) -> Any:
        await server.start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        while psutil.Process(server.pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)
        return await asyncio.gather(*(server.generate(REQUESTS, BASE) for _ in range(3)))

    assert len(wire.use(use)) == 3
    assert wire.count_starts() == 2


def test_one_that_always_dies_ends_the_work_with_the_end_of_its_log(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sglang_server, "MAX_RESTARTS", 1)
    wire.rule(*[{"die": 1}] * 5)
    with pytest.raises(SGLangError, match=r"(?s)ended or hung 2 times.*the fake dies now"):
        wire.ask()
    assert wire.count_starts() == 2


def test_concurrent_requests_count_one_death_once(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sglang_server, "MAX_RESTARTS", 1)
    wire.rule({"die": 3})

    async def use(server: SGLangServer) -> Any:
        await server.start()
        return await asyncio.gather(*(server.generate(REQUESTS, BASE) for _ in range(3)))

    assert len(wire.use(use)) == 3
    assert wire.count_starts() == 2


def test_a_server_that_hangs_is_replaced(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_server, "TOKEN_SECONDS", 0.0)
    wire.rule({"hang": 1})
    assert wire.ask(answer_seconds=0.5) == ANSWERED
    assert wire.count_starts() == 2


def test_one_that_does_not_start_says_why(wire: Wire) -> None:
    wire.rule({"start": 3})
    with pytest.raises(SGLangError, match=r"(?s)status 3 before it answered.*fake does not start"):
        wire.ask()


def test_answers_of_other_weights_are_refused(wire: Wire, tmp_path: Path) -> None:
    wire.rule({"version": "old"})
    with pytest.raises(SGLangError, match="the weights 'old', expected 'base'"):
        wire.ask()
    assert wire.ask(Weights("whole", "new", at_path(tmp_path))) == ANSWERED


def test_what_a_server_refuses_is_an_error_in_its_words(wire: Wire, tmp_path: Path) -> None:
    gone = tmp_path / "file"
    gone.touch()
    with pytest.raises(RuntimeError, match="SGLang: no such folder"):
        wire.ask(Weights("name", "abc", at_path(gone)))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [([], "empty"), ([5, -1], "token id -1"), ([10**6], r"id 1000000, expected ids from 0 to \d+")],
)
def test_what_would_end_the_server_is_never_sent(wire: Wire, prompt: list[int], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        wire.use(lambda server: server.generate([*REQUESTS, TokenRequest(prompt, 3)], BASE))
    assert not (wire.folder / "log.jsonl").exists()


def test_it_sleeps_and_wakes(wire: Wire) -> None:
    async def use(server: SGLangServer) -> None:
        await server.sleep()
        await server.wake()

    wire.use(use)
    paths = [entry["path"] for entry in wire.list_log() if "path" in entry]
    assert paths == ["/model_info", "/release_memory_occupation", "/resume_memory_occupation"]


@pytest.fixture
def child(wire: Wire) -> Iterator[subprocess.Popen[str]]:
    """A process that has started a server, and prints its id."""
    code = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from atgen_ray.config import ModelConfig\n"
        "from atgen_ray.engines.sglang_server import SGLangServer\n"
        "from atgen_ray.engines.sglang_settings import ServerSettings\n"
        "settings = ServerSettings(ModelConfig(id=sys.argv[1]), 'float32')\n"
        "server = SGLangServer(settings, [2], [sys.executable, *sys.argv[2:]])\n"
        "asyncio.run(server.start())\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, wire.settings.model.id, sglang_wire.__file__]
    with subprocess.Popen(
        [*command, str(wire.folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, "the server is left behind"
        time.sleep(0.05)


def test_no_server_outlives_the_process_that_started_it(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    assert psutil.pid_exists(pid)
    child.kill()
    wait_for_end(pid)


def test_the_launcher_ends_all_its_processes_with_its_parent() -> None:
    code = (
        "import subprocess, sys, time\n"
        "import sglang_launcher\n"
        "print(sglang_launcher.read_arguments(), flush=True)\n"
        "sglang_launcher.end_with_parent()\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(other.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    folder = Path(sglang_launcher.__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('["--port", "1"]\n')
        process.stdin.flush()
        assert process.stdout.readline() == "['--port', '1']\n"
        pid = int(process.stdout.readline())
        process.stdin.close()
        assert process.wait(20) == -signal.SIGKILL
        wait_for_end(pid)


def test_processes_of_a_launcher_that_is_killed_end_by_themselves(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, time\n"
        "import sglang_launcher\n"
        "if __name__ == '__mp_main__':\n"
        "    sglang_launcher.end_with_starter()\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    worker = context.Process(target=time.sleep, args=(600,))\n"
        "    worker.start()\n"
        "    print(worker.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    folder = Path(sglang_launcher.__file__).parent
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(1)  # the worker has imported the script
        process.kill()
        wait_for_end(pid)


def test_the_arguments_are_those_of_the_device(tiny_model: str) -> None:
    model = ModelConfig(id=tiny_model, max_prompt_tokens=50, max_new_tokens=10)
    on_cpu = ServerSettings(model, "float32", lora_rank=64).list_arguments(1234, "secret")
    assert on_cpu[on_cpu.index("--attention-backend") + 1] == "torch_native"
    assert on_cpu[on_cpu.index("--lora-backend") + 1] == "torch_native"
    half = ServerSettings(model, "bfloat16", cuda=True, gpus=0.5).list_arguments(1234, "secret")
    assert "--device" not in half
    assert half[half.index("--mem-fraction-static") + 1] == "0.42"
    options = {"enable_deterministic_inference": True, "tp_size": 2, "log_level": None}
    four = ServerSettings(model, "bfloat16", cuda=True, gpus=4, options=options)
    flags = four.list_arguments(1234, "secret")
    assert "--enable-deterministic-inference" in flags
    assert "--log-level" not in flags
    assert flags[flags.index("--tp-size") + 1] == "2"


def test_only_plain_lora_is_taken_by_name(adapter: Path, tmp_path: Path, tiny_model: str) -> None:
    """SGLang scales by alpha over rank whatever an adapter's settings say: the wrong answer, and no
    error.
    """
    assert choose_weights(None, "auto") is BASE
    assert choose_weights(at_path(adapter), "auto").how == "name"
    assert choose_weights(at_path(adapter), "merged").how == "merged"
    assert choose_weights(at_path(Path(tiny_model)), "auto").how == "whole"
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for special in ({"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}):
        for file in adapter.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | special))
        assert choose_weights(at_path(tmp_path), "auto").how == "merged"


def test_where_sglang_is_missing_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"'sglang', which is not installed: .*make install-sglang"):
        choose_backend("sglang")
    python = tmp_path / ".sglang/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert choose_backend("sglang") == "sglang"
    assert find_python() == python
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match=f"{PYTHON_VARIABLE} is '.*none', expected the Python"):
        choose_backend("sglang")
    assert EngineConfig(backend="sglang").backend == "sglang"
