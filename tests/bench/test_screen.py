"""What a sweep shows while it goes."""

import io
import json
import time
from typing import Any

import pytest
from rich.console import Console

from atgen_ray.bench.console import (
    JsonSweep,
    LiveSweep,
    PlainSweep,
    SweepState,
    choose_sweep_screen,
)
from atgen_ray.bench.grid import Trial
from atgen_ray.config import RunConfig
from atgen_ray.runs.console import PLAIN_SECONDS

RUN = RunConfig.model_validate(
    {"name": "s-sort-huds-s1", "data": {"pool": "p", "references": "a"}, "model": {"id": "m"}}
)
CELL = Trial("sort", "tiny", "huds", 1, 0, RUN)


def make_state(**changes: Any) -> SweepState:
    step = {"round": 2, "step": "training", "done": 3, "total": 12, "started": time.time() - 30}
    state: dict[str, Any] = {
        "total": 8,
        "done": 2,
        "parallel": 2,
        "seconds": [60.0, 100.0],
        "active": {"r": step},
    }
    return SweepState(**state | changes)


def test_time_left_is_that_of_the_mean_run_shared_out() -> None:
    assert make_state().seconds_left == pytest.approx(6 * 80 / 2)
    assert make_state(seconds=[]).seconds_left is None


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    screen = choose_sweep_screen(False, Console(file=stream, width=200))
    assert type(screen) is PlainSweep
    screen.show_end(CELL, "finished", "all rounds done", make_state())
    screen.show_end(
        CELL, "failed", "Traceback ...\nValueError: no such thing", make_state(seconds=[])
    )
    screen.show_state(make_state())
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + PLAIN_SECONDS)
    screen.show_state(make_state())
    assert stream.getvalue().splitlines() == [
        "  2/8 sort tiny huds seed 1 finished, 4 min left",
        "  2/8 sort tiny huds seed 1 failed: ValueError: no such thing",
        "  r: round 2 training: 3/12, 90 s left",
    ]


def test_a_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    screen = choose_sweep_screen(False, Console(file=stream, width=100, force_terminal=True))
    assert isinstance(screen, LiveSweep)
    screen.show_state(make_state())
    screen.show_end(CELL, "finished", "", make_state())
    screen.close()
    shown = stream.getvalue()
    assert "2/8" in shown
    assert "4 min left" in shown
    assert "sort tiny huds seed 1 finished" in shown


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = choose_sweep_screen(True, Console())
    assert isinstance(screen, JsonSweep)
    state = make_state()
    screen.show_state(state)
    screen.show_state(state)  # nothing changed, nothing is told
    screen.show_end(CELL, "stopped", "on request", state)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["active"]["r"]["step"] == "training"
    assert second == {
        "type": "run",
        "name": "s-sort-huds-s1",
        "status": "stopped",
        "message": "on request",
        "done": 2,
        "total": 8,
        "seconds_left": 240.0,
    }
