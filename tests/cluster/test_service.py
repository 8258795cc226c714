"""The service as its users start it: `serve deploy` on a cluster that is there, and `atgen-ray
serve` by itself.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import openai
import pytest
import yaml
from helpers.forks import Command, run_command
from helpers.ports import free_port
from helpers.services import bearer

from atgen_ray.serving.drain import DRAIN_SECONDS
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import open_journal
from atgen_ray.store.owner import ProcessIdentity

SERVE = ("-m", "ray.serve.scripts")  # what the command `serve` runs
LOCAL = Path(__file__).parents[2] / "serve_configs/local-cpu.yaml"
START_SECONDS = 240
SCALE_SECONDS = 120
SCALING = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 2,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": 1,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 1,
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped configuration for one machine, with a port and a storage of its own."""
    tree = yaml.safe_load(LOCAL.read_text())
    tree["http_options"]["port"] = free_port()
    tree["applications"][0]["args"]["storage"] = str(tmp_path / "storage")
    file = tmp_path / "service.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def test_serve_deploy_of_the_shipped_configuration(cluster: dict[str, str], config: Path) -> None:
    """Replicas on CPUs come and go with the load, by Serve's own setting."""
    tree = yaml.safe_load(config.read_text())
    tree["applications"][0]["deployments"] = [{"name": "model", "autoscaling_config": SCALING}]
    config.write_text(yaml.safe_dump(tree))
    deployed = run_command(*SERVE, "deploy", str(config), env=cluster, timeout=120)
    assert deployed.returncode == 0, deployed.stderr
    wait_until_ready(config)
    client = chat_with_the_model(config)
    assert count_replicas(cluster) == 1
    with ask_all_the_time(client, callers=6):
        wait_for_replicas(cluster, 2)
    wait_for_replicas(cluster, 1)
    ended = run_command(*SERVE, "shutdown", "-y", env=cluster, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_atgen_ray_serve_until_it_is_told_to_end(config: Path) -> None:
    command = ["-m", "atgen_ray.cli", "serve", "--config", str(config)]
    served = Command(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert served.stdout is not None
        lines = [served.stdout.readline()]
        while "serving on" not in lines[-1]:
            assert lines[-1], "".join(lines)
            lines.append(served.stdout.readline())
        assert any("atgen-ray token create --role admin" in line for line in lines)
        wait_until_ready(config)
        chat_with_the_model(config)
        with follow_a_run(config) as stream:
            served.send_signal(signal.SIGTERM)
            told = time.monotonic()
            assert "event: closing" in list(stream.iter_lines())
        rest, _ = served.communicate(timeout=120)
        assert served.returncode == 0, "".join(lines) + rest
        assert time.monotonic() - told < DRAIN_SECONDS + 30
        assert "ending within 30 s" in rest
    finally:
        served.kill()


@contextmanager
def follow_a_run(config: Path) -> Iterator[httpx.Response]:
    """The events of a run that somebody drives and nothing happens in."""
    url, storage = read(config)
    with closing(open_journal(storage)) as journal:
        lease = journal.acquire(
            journal.create_run("quiet", {}, "").name, ProcessIdentity("test"), 600
        )
        journal.set_status(lease, "running")
        known = bearer(Tokens(journal.database).create("admin"))
        with httpx.stream(
            "GET", f"{url}/api/v1/runs/quiet/events", headers=known, timeout=120
        ) as stream:
            assert stream.status_code == 200
            yield stream


def read(config: Path) -> tuple[str, str]:
    """URL and storage of the service that a file describes."""
    tree: Any = yaml.safe_load(config.read_text())
    return f"http://127.0.0.1:{tree['http_options']['port']}", tree["applications"][0]["args"][
        "storage"
    ]


def wait_until_ready(config: Path) -> None:
    deadline, said = time.monotonic() + START_SECONDS, "nothing"
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{read(config)[0]}/readyz", timeout=30)
            if answer.status_code == 200:
                return
            said = answer.text
        except httpx.TransportError as error:
            said = str(error)
        time.sleep(1)
    pytest.fail(f"the service never was ready: {said}")


def count_replicas(cluster: dict[str, str]) -> int:
    """The replicas of the model that take requests."""
    status = httpx.get(f"{cluster['RAY_ADDRESS']}/api/serve/applications/", timeout=60).json()
    replicas = status["applications"]["atgen"]["deployments"]["model"]["replicas"]
    return [each["state"] for each in replicas].count("RUNNING")


def wait_for_replicas(cluster: dict[str, str], count: int) -> None:
    deadline = time.monotonic() + SCALE_SECONDS
    while (found := count_replicas(cluster)) != count:
        assert time.monotonic() < deadline, f"{found} replicas, expected {count}"
        time.sleep(0.5)


@contextmanager
def ask_all_the_time(client: openai.OpenAI, callers: int) -> Iterator[None]:
    """Every one of `callers` has a question at the service until the block ends."""
    ended = Event()
    turn: Any = {"role": "user", "content": "Tell me a long story."}

    def ask() -> None:
        while not ended.is_set():
            client.chat.completions.create(model="smollm2-135m", messages=[turn], max_tokens=32)

    with ThreadPoolExecutor(callers) as pool:
        asking = [pool.submit(ask) for _ in range(callers)]
        try:
            yield
        finally:
            ended.set()
    for each in asking:
        each.result()


def chat_with_the_model(config: Path) -> openai.OpenAI:
    url, storage = read(config)
    assert httpx.get(f"{url}/v1/models").status_code == 401
    create = ("token", "create", "--role", "admin", "--storage", storage)
    created = run_command("-m", "atgen_ray.cli", *create, timeout=60)
    assert created.returncode == 0, created.stderr
    token = created.stdout.strip()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=token, timeout=120)
    model = "smollm2-135m"
    assert model in [each.id for each in client.models.list()]
    turn: Any = {"role": "user", "content": "What is the capital of France?"}
    answer = client.chat.completions.create(
        model=model, messages=[turn], max_tokens=16, temperature=0
    )
    assert "Paris" in str(answer.choices[0].message.content)
    pool = [
        {"id": str(number), "text": text}
        for number, text in enumerate(["a cat", "a kitten", "tax law"])
    ]
    select = {"examples": pool, "strategy": "k_center", "count": 2}
    picked = httpx.post(
        f"{url}/api/v1/select",
        json=select,
        headers={"Authorization": f"Bearer {token}"},
        timeout=120,
    )
    assert picked.status_code == 200, picked.text
    assert "2" in {pick["id"] for pick in picked.json()["selected"]}
    return client
