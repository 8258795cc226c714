"""Workers of Ray are forked in these tests; a fork is as a process that was started."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from helpers.forks import (
    ROLES,
    VARIABLE,
    Command,
    list_descendants,
    run_command,
    wait_for_fork_server,
)
from helpers.forks.hook.sitecustomize import find_worker

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(
        os.environ.get(VARIABLE) == "off", reason="workers are started, as asked for"
    ),
]


@pytest.fixture(autouse=True, scope="module")
def _sent_whole() -> Iterator[None]:
    """Workers cannot import this file."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Worker:
    """What a process knows of itself."""

    def describe(self) -> dict[str, object]:
        process = psutil.Process()
        return {
            "parent": process.parent().cmdline(),
            "group": os.getpgid(0) == process.pid,
            "folder": os.getcwd(),  # noqa: PTH109
            "given": os.environ.get("ATGEN_SAMPLE"),
        }

    def read_brought(self) -> str:
        """A word from a module in the folder of the job."""
        return str(importlib.import_module("brought").WORD)

    def read_before_ray(self) -> bool:
        """Whether torch was there before Ray, as in a fork alone."""
        modules = list(sys.modules)
        return "torch" in modules and modules.index("torch") < modules.index("ray")


def start(directory: str = "", **variables: str) -> ray.actor.ActorHandle:
    """A worker in a process of its own, since no other has these variables."""
    environment: dict[str, Any] = {
        "env_vars": {"ATGEN_SAMPLE": os.urandom(4).hex(), **variables}
    } | ({"working_dir": directory} if directory else {})
    return ray.remote(num_cpus=0, runtime_env=environment)(Worker).remote()


def wait_for_servers() -> None:
    for role in ROLES:
        wait_for_fork_server(role)
        assert Path(os.environ[VARIABLE], role).exists(), f"the fork server of {role} did not start"


def test_agents_of_a_raylet_are_forks() -> None:
    wait_for_servers()
    names = ("ray::DashboardA", "ray::RuntimeEnv")
    deadline = time.monotonic() + 60
    while True:  # those of a Ray that has ended follow it after a while
        agents = [each for each in list_descendants(os.getpid()) if each.name().startswith(names)]
        if len(agents) == 2 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert len(agents) == 2
    for agent in agents:
        parent = agent.parent()
        assert parent is not None
        assert any("forks/server.py" in part for part in parent.cmdline())


def test_a_worker_is_a_fork_with_surroundings_of_its_own() -> None:
    wait_for_servers()
    worker = start()
    found = ray.get(worker.describe.remote())
    assert any("forks/server.py" in part for part in found["parent"])
    assert found["group"]
    assert found["folder"] == str(Path.cwd())
    assert found["given"]
    assert ray.get(worker.read_before_ray.remote())
    ray.kill(worker)


def test_a_worker_of_a_job_is_a_fork_in_the_folder_of_the_job(tmp_path: Path) -> None:
    wait_for_servers()
    (tmp_path / "job").mkdir()
    (tmp_path / "job/brought.py").write_text("WORD = 'brought along'")
    package = shutil.make_archive(str(tmp_path / "package"), "zip", tmp_path, "job")
    worker = start(directory=f"file://{package}")
    found = ray.get(worker.describe.remote())
    assert any("forks/server.py" in part for part in found["parent"])
    assert Path(str(found["folder"]), "brought.py").exists()
    assert ray.get(worker.read_brought.remote()) == "brought along"
    ray.kill(worker)


def test_what_ray_sets_in_this_process_does_not_matter() -> None:
    """Or no cluster would have forks that is started after the first."""
    wait_for_servers()
    worker = start(PYTHONBREAKPOINT=os.environ["PYTHONBREAKPOINT"])
    assert any("forks/server.py" in part for part in ray.get(worker.describe.remote())["parent"])
    ray.kill(worker)


def test_a_worker_with_another_setting_of_a_package_is_started() -> None:
    """What packages read at import cannot be changed in a fork."""
    wait_for_servers()
    worker = start(HF_HOME="/tmp/elsewhere")
    assert not any("forks" in part for part in ray.get(worker.describe.remote())["parent"])
    assert not ray.get(worker.read_before_ray.remote())
    ray.kill(worker)


def test_the_script_of_ray_runs_only_where_it_does_more_than_to_set_variables() -> None:
    def find(**context: object) -> tuple[list[str], dict[str, str], str] | None:
        folder = "/lib/ray/_private/workers"
        given = {"command_prefix": [], "env_vars": {}, "py_executable": sys.executable, **context}
        worker = [f"{folder}/default_worker.py", "--node=1", "--language=PYTHON"]
        context_option = f"--serialized-runtime-env-context={json.dumps(given)}"
        return find_worker(["python", f"{folder}/setup_worker.py", *worker, context_option])

    assert find(env_vars={"A": "1"}) == (
        ["/lib/ray/_private/workers/default_worker.py", "--node=1"],
        {"A": "1"},
        "",
    )
    assert find(command_prefix=["cd", "'/a job'", "&&"]) == (
        ["/lib/ray/_private/workers/default_worker.py", "--node=1"],
        {},
        "/a job",
    )
    assert find(env_vars={"A": "${HOME}/x"}) is None  # which Ray fills in
    assert find(command_prefix=["cd", "/elsewhere", "&&", "nice"]) is None
    assert find(py_executable="/elsewhere/python") is None


def test_code_is_a_command_too_and_its_classes_can_be_sent() -> None:
    wait_for_servers()
    code = """
import sys, pickle
from ray import cloudpickle
class Sent: pass
sent = cloudpickle.dumps(Sent)
del Sent
print(sys.argv, "ray" in sys.modules, pickle.loads(sent).__name__)
sys.exit(3)
"""
    done = run_command("-c", code, "one", "--two", timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "['-c', 'one', '--two'] True Sent\n"


def test_a_command_is_a_fork_and_a_child_of_this_process(tmp_path: Path) -> None:
    wait_for_servers()

    (tmp_path / "given.json").write_text('{"a":  1}')

    def start_formatter(file: str) -> Command:
        pipe = subprocess.PIPE
        streams: dict[str, Any] = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
        return Command(
            "-m", "json.tool", "--compact", file, cwd=tmp_path, env=os.environ, **streams
        )

    process = start_formatter("given.json")
    found = psutil.Process(process.pid)
    assert any("forks/server.py" in part for part in found.cmdline())
    assert found.ppid() == os.getpid()
    assert process.communicate(timeout=60) == ('{"a":1}\n', "")
    assert process.returncode == 0
    process = start_formatter("-")
    out, err = process.communicate("no JSON", timeout=60)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    process = start_formatter("-")
    process.kill()
    assert process.wait(60) == -signal.SIGKILL


def test_commands_have_imported_ray_and_draw_ids_of_their_own(tmp_path: Path) -> None:
    """But not where another setting of Ray was to be read at its import."""
    wait_for_servers()
    (tmp_path / "draw.py").write_text(
        "import sys; imported = 'ray' in sys.modules; from ray import WorkerID; "
        "print(imported, WorkerID.from_random().hex())"
    )

    def draw(**settings: str) -> list[str]:
        command = run_command("-m", "draw", cwd=tmp_path, env=os.environ | settings, timeout=60)
        assert command.returncode == 0, command.stderr
        return command.stdout.split()

    (imported, first), (also_imported, second) = draw(), draw(RAY_TMPDIR=str(tmp_path))
    assert (imported, also_imported) == ("True", "True")
    assert first != second
    assert draw(RAY_health_check_period_ms="4000")[0] == "False"
