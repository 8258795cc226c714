"""The end of a service by signals. `tests/cluster/test_service.py` ends a real one."""

import os
import signal
from pathlib import Path

import pytest
from helpers.command_line import call

from atgen_ray.runs.driver import stop_on_signal
from atgen_ray.serving.drain import is_ending


def test_a_second_signal_ends_a_service_at_once_and_a_run_by_interrupt_alone() -> None:
    def end_twice() -> None:
        with stop_on_signal(urgent=True) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(5)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        end_twice()
    with stop_on_signal() as stop:  # `ray job stop` sends more than one
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)


def test_a_process_without_ray_is_not_ending() -> None:
    assert is_ending() is False


def test_a_format_of_logs_that_is_none_is_one_line(tmp_path: Path) -> None:
    refused = call("serve", "--log-format", "xml", "--storage", str(tmp_path))
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "--log-format is 'xml', expected text or json" in refused.err
