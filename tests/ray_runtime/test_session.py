"""The Ray that a command works on: an address where none is, and one that does not start, is a line
at once.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.ports import free_port
from helpers.projects import Project

from atgen_ray.core.errors import UserError
from atgen_ray.ray_runtime.session import check_address, ray_session
from atgen_ray.store.journal import open_journal


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_listens(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as refused, ray_session("atgen"):
        pass
    assert str(refused.value).startswith(
        f"RAY_ADDRESS is '{address}', where nobody listens (Connection refused): exp"
    )


def test_something_else_listens(deaf: str) -> None:
    with pytest.raises(
        UserError, match="where something else than Ray listens: expected the head of a running"
    ):
        check_address(deaf)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_dashboard_is_no_place_for_a_driver(scheme: str) -> None:
    address = f"{scheme}://head:8265"
    with pytest.raises(UserError, match=f"`atgen-ray submit CONFIG --address {address}`"):
        check_address(address)


@pytest.mark.parametrize("address", ["auto", "local", "ray://head"])
def test_where_ray_looks_by_itself_nothing_is_checked(address: str) -> None:
    check_address(address)


def test_a_running_ray_answers(ray_session: None) -> None:
    import ray

    check_address(ray.get_runtime_context().gcs_address)


def test_sigterm_is_obeyed_while_an_address_is_tried(deaf: str, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("data: {pool: p.jsonl, references: a}\nmodel: {id: m}\n")
    (tmp_path / "p.jsonl").write_text('{"text": "a question", "a": "its answer"}\n')
    process = Project(tmp_path).start("run", "task.yaml", RAY_ADDRESS=deaf, PYTHONUNBUFFERED="1")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("run task in ")
    process.send_signal(signal.SIGTERM)
    timer = threading.Timer(60, process.kill)
    timer.start()
    _, err = process.communicate()
    timer.cancel()
    assert process.returncode in (-signal.SIGTERM, 2), (
        err
    )  # it was asked before, or just after, it had given up
    assert "Traceback" not in err


def test_a_ray_that_does_not_start_is_one_line_and_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("data: {pool: p.jsonl, references: a}\nmodel: {id: m}\n")
    (tmp_path / "p.jsonl").write_text('{"text": "a question", "a": "its answer"}\n')
    long = tmp_path / ("a" * 120)  # longer than the path of a socket may be
    long.mkdir()
    ended = Project(tmp_path).run("run", "task.yaml", TMPDIR=str(long), RAY_TMPDIR=str(long))
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "RAY_TMPDIR is" in line]
    assert len(lines) == 1
    assert "too long for the sockets of Ray" in lines[0]
    assert "Traceback" not in ended.stderr
    with closing(open_journal(str(tmp_path / "atgen-runs"))) as journal:
        assert journal.runs() == []
