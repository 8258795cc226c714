"""What a run looks like while it goes on: plain lines, JSON lines, live bars; and the learning
curve as a table.
"""

import io
import json
import time
from typing import Any

import pytest
from rich.console import Console

from atgen_ray.runs import console as screens
from atgen_ray.runs.console import (
    JsonScreen,
    LiveScreen,
    PlainScreen,
    choose_screen,
    curve_table,
    describe_step,
)
from atgen_ray.store.events import Event

METRICS = ("rouge1", "rouge2", "rougeL", "exact_match", "token_f1")


def event(
    kind: str = "step",
    round: int | None = 1,
    step: str | None = "training",
    seconds: float | None = 12.34,
) -> Event:
    """An event as a journal gives it back."""
    return Event("demo", 7, kind, round, step, {"rows": 6}, seconds, 1.8e9)


def activity(
    done: int = 0, total: int = 0, ago: float = 0.0, round: int = 1, step: str = "training"
) -> dict[str, Any]:
    """What a controller says of the step under way, begun `ago` seconds ago."""
    return {
        "round": round,
        "step": step,
        "done": done,
        "total": total,
        "started": time.time() - ago,
    }


def plain() -> Console:
    """A console that is no terminal."""
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    """What a console has printed."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_screen_fits_where_the_output_goes() -> None:
    assert isinstance(choose_screen(True, Console(force_terminal=True)), JsonScreen)
    assert isinstance(choose_screen(False, Console(force_terminal=True)), LiveScreen)
    assert isinstance(choose_screen(False, plain()), PlainScreen)


def test_a_step_is_one_line() -> None:
    assert describe_step(event()) == "  round 1   training        12.3 s"
    assert (
        describe_step(event(round=0, step="pool", seconds=None))
        == "  start     pool             0.0 s"
    )
    assert (
        describe_step(event(round=None, step="embedding")) == "  start     embedding       12.3 s"
    )
    assert describe_step(event(round=1000, step="generation")).split() == [
        "round",
        "1000",
        "generation",
        "12.3",
        "s",
    ]


# ---- plain


def test_a_plain_screen_tells_of_steps_done_alone() -> None:
    console = plain()
    screen = PlainScreen(console)
    screen.show_event(event("running"))
    screen.show_event(event())
    screen.show_event(event("stopped", None, None))
    screen.close()
    assert printed(console) == "  round 1   training        12.3 s\n"


def test_a_plain_screen_tells_of_the_step_under_way_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = plain()
    screen = PlainScreen(console)
    screen.show_activity(activity(5, 20, ago=30))
    assert printed(console) == ""  # not at once
    clock = time.monotonic()

    def wait() -> None:
        nonlocal clock
        clock += screens.PLAIN_SECONDS
        monkeypatch.setattr(time, "monotonic", lambda: clock)

    wait()
    screen.show_activity(activity(5, 20, ago=30))
    screen.show_activity(activity(6, 20, ago=30))
    assert printed(console) == "round 1 training: 5/20, 90 s left\n"
    wait()
    screen.show_event(
        event()
    )  # a line of its own, after which there is nothing to tell for a while
    screen.show_activity(activity(0, 0, round=0, step="pool"))
    assert printed(console).count("\n") == 2
    wait()
    screen.show_activity(activity(0, 0, round=0, step="pool"))
    assert printed(console).endswith("12.3 s\npool: 0/?, 0 s so far\n")


def test_a_step_whose_first_batch_is_not_through_shows_that_it_goes_on() -> None:
    assert (
        screens.describe_activity(activity(0, 40, ago=45)) == "round 1 training: 0/40, 45 s so far"
    )


# ---- JSON


def test_what_the_cluster_has_no_room_for_is_told_at_once_and_once() -> None:
    waiting = "Ray cannot place 1 CPU: free are 0.9 of 2 CPUs"
    console = plain()
    screen = PlainScreen(console)
    screen.show_activity(activity(step="pool"))
    for _ in range(3):
        screen.show_activity(activity(step="pool") | {"waiting": waiting})
    assert printed(console).split() == f"round 1 pool: 0/?, {waiting}".split()


def test_a_json_screen_writes_a_line_for_every_event_and_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = JsonScreen()
    first = activity(5, 20, ago=30)
    screen.show_activity(first)
    screen.show_activity(dict(first))
    screen.show_activity(first | {"done": 0})
    screen.show_activity(first | {"done": 20})
    screen.show_event(event())
    screen.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["progress", "progress", "progress", "event"]
    assert lines[0]["seconds_left"] == pytest.approx(90, abs=1)
    assert {"round": 1, "step": "training", "done": 5, "total": 20}.items() <= lines[0].items()
    assert lines[1]["seconds_left"] is None  # nobody knows yet
    assert lines[2]["seconds_left"] == 0
    assert lines[3] == {
        "type": "event",
        "run": "demo",
        "sequence": 7,
        "kind": "step",
        "round": 1,
        "step": "training",
        "payload": {"rows": 6},
        "seconds": 12.34,
        "time": 1.8e9,
    }


# ---- live


def test_a_live_screen_has_a_bar_for_the_step_under_way() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    screen = LiveScreen(console)
    screen.show_event(event("running"))
    assert printed(console) == ""
    started = activity(3, 12)
    screen.show_activity(started)
    screen.show_activity(started | {"done": 7})
    screen.show_event(event())
    screen.show_activity(activity(0, 0, step="evaluation", ago=-1))
    screen.show_activity(activity(2, 0, step="evaluation", ago=-1))
    screen.close()
    text = printed(console)
    first, _, second = text.partition("  round 1   training        12.3 s")
    assert "round 1 training" in first
    assert "7/12" in first + second
    assert "left" in first
    assert "round 1 evaluation" in second
    before = text
    screen.close()  # once more does no harm
    assert printed(console) == before


def test_a_live_screen_leaves_the_terminal_as_it_was() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    screen = LiveScreen(console)
    screen.show_activity(activity(3, 12))
    screen.close()
    assert (
        printed(console).count("\x1b[?25l") == printed(console).count("\x1b[?25h") == 1
    )  # the cursor is shown again
    assert printed(console).endswith("\x1b[2K")  # and the bar is erased


# ---- the learning curve


def row(round: int, seconds: float = 10.0, **metrics: Any) -> dict[str, Any]:
    """A row of metrics.json."""
    estimates = {
        name: {"mean": 0.4567, "low": 0.4, "high": 0.5, "count": 60} for name in METRICS
    } | metrics
    return {
        "round": round,
        "labels": 16 * round,
        "dollars": 8.0 * round,
        "seconds": {"training": seconds, "evaluation": 0.4},
        "metrics": {name: value for name, value in estimates.items() if value is not None},
        "dev_metrics": None,
    }


def lines(rows: list[dict[str, Any]], width: int) -> list[str]:
    """The table as a screen of `width` columns shows it."""
    console = Console(file=io.StringIO(), width=width)
    console.print(curve_table(rows, width))
    return printed(console).splitlines()


def test_a_narrow_screen_shows_means() -> None:
    shown = lines([row(0), row(1, 100.2), row(2)], 80)
    assert [line.split() for line in shown] == [
        [
            "round",
            "labels",
            "dollars",
            "seconds",
            "rouge1",
            "rouge2",
            "rougeL",
            "exact_match",
            "token_f1",
        ],
        ["0", "0", "0.00", "10", *["0.457"] * 5],
        ["1", "16", "8.00", "111", *["0.457"] * 5],
        ["2", "32", "16.00", "121", *["0.457"] * 5],
    ]


def test_a_few_shot_start_stands_before_its_round() -> None:
    rows = [row(0), row(1)]
    rows[1]["few_shot_metrics"] = {"rougeL": {"mean": 0.25, "low": 0.2, "high": 0.3, "count": 4}}
    assert lines(rows, 80)[2].split() == ["shots", "-", "-", "0.250", "-", "-"]


@pytest.mark.parametrize("metrics", [1, 3, 5])
def test_intervals_are_shown_where_they_fit_and_nothing_is_ever_cut(metrics: int) -> None:
    rows = [row(at, 4000.0, **dict.fromkeys(METRICS[metrics:])) for at in (0, 100)]
    needed = 34 + 22 * metrics
    for width in (max(80, needed - 1), needed, needed + 1, 300):
        shown = lines(rows, width)
        assert len(shown) == 3
        assert "…" not in "".join(shown)
        assert shown[2].count("0.457 [0.400, 0.500]") == (metrics if width >= needed else 0)
        assert shown[2].count("0.457") == metrics


def test_a_metric_without_a_value_is_a_dash() -> None:
    shown = lines(
        [row(0, rougeL=None), row(1, rougeL={"mean": None, "low": None, "high": None, "count": 0})],
        200,
    )
    assert shown[0].split().index("rougeL") == 6
    assert all(line.split("  ")[-3].strip() != "0.457" for line in shown[1:])
    assert [line.count("-") for line in shown[1:]] == [1, 1]


def test_a_run_without_a_test_set_has_a_curve_without_metrics() -> None:
    none: dict[str, Any] = dict.fromkeys(METRICS)
    shown = lines([row(1, **none)], 80)
    assert [line.split() for line in shown] == [
        ["round", "labels", "dollars", "seconds"],
        ["1", "16", "8.00", "10"],
    ]


def test_without_a_test_set_the_curve_is_that_of_the_audit() -> None:
    rows = [row(0), row(1)]
    for each in rows:
        each["audit_metrics"], each["metrics"] = {"rougeL": each["metrics"]["rougeL"]}, {}
    heading, first, _ = lines(rows, 120)
    assert heading.split() == ["round", "labels", "dollars", "seconds", "rougeL", "(audit)"]
    assert "0.457 [0.400, 0.500]" in first
