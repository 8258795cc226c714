"""The service as its users start it: `serve deploy` on a cluster that is there, and `atgen-ray
serve` by itself.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from helpers.ports import free_port

SERVE = str(Path(sys.executable).with_name("serve"))
LOCAL = Path(__file__).parents[2] / "serve_configs/local-cpu.yaml"
START_SECONDS = 240


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
    deployed = subprocess.run(
        [SERVE, "deploy", str(config)], env=cluster, capture_output=True, text=True, timeout=120
    )
    assert deployed.returncode == 0, deployed.stderr
    wait_until_ready(config)
    chat_with_the_model(config)
    subprocess.run(
        [SERVE, "shutdown", "-y"], env=cluster, check=True, capture_output=True, timeout=120
    )


def test_atgen_ray_serve_until_it_is_told_to_end(config: Path) -> None:
    command = [sys.executable, "-m", "atgen_ray.cli", "serve", "--config", str(config)]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert served.stdout is not None
        lines = [served.stdout.readline()]
        while "serving on" not in lines[-1]:
            assert lines[-1], "".join(lines)
            lines.append(served.stdout.readline())
        assert any("atgen-ray token create --role admin" in line for line in lines)
        wait_until_ready(config)
        chat_with_the_model(config)
        served.send_signal(signal.SIGTERM)
        rest, _ = served.communicate(timeout=120)
        assert served.returncode == 0, "".join(lines) + rest
    finally:
        served.kill()


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


def chat_with_the_model(config: Path) -> None:
    url, storage = read(config)
    assert httpx.get(f"{url}/v1/models").status_code == 401
    create = [
        sys.executable,
        "-m",
        "atgen_ray.cli",
        "token",
        "create",
        "--role",
        "admin",
        "--storage",
        storage,
    ]
    token = subprocess.run(
        create, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()
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
