"""Progress of a run on standard output: live bars on a terminal or in a notebook, plain lines
elsewhere, JSON lines for programs.

A screen has `show_event` for what the journal holds, `show_activity` for the step under way, and
`close`. `JsonLines` and `Pacer` are shared with the screens of a sweep (bench/console.py).
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from atgen_ray.engines.choice import ENGINE
from atgen_ray.store.events import WARNING, Event

NOTES = (WARNING, ENGINE)  # kinds of events that are shown as one line
NOTEBOOK_SECONDS = 0.5  # how often the bar of a notebook is drawn at most
PLAIN_SECONDS = 15.0  # how often a plain screen tells of a step under way


class Pacer:
    """Limits how often a plain screen prints the step under way: every `PLAIN_SECONDS`."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def reset(self) -> None:
        """Note that a line was printed now."""
        self._printed = time.monotonic()

    def is_due(self) -> bool:
        """Return whether nothing was printed for `PLAIN_SECONDS`."""
        return time.monotonic() - self._printed >= PLAIN_SECONDS


class JsonLines:
    """Writes values to standard output, one JSON object a line."""

    def __init__(self) -> None:
        self._last: Any = None
        self._out = sys.stdout

    def write(self, value: Any) -> None:
        """Write one line."""
        self._out.write(json.dumps(value, default=str) + "\n")
        self._out.flush()

    def is_new(self, state: Any) -> bool:
        """Return whether `state` differs from that of the last call; screens are asked many times a
        second and print changes only.
        """
        changed = state != self._last
        self._last = state
        return bool(changed)

    def close(self) -> None:
        """Do nothing: lines stay."""


class LiveScreen:
    """A bar for the step under way, and a line for each step done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._started = 0.0

    def show_event(self, event: Event) -> None:
        if event.is_step:
            self._console.print(describe_step(event), highlight=False)
        elif event.kind in NOTES:
            self._console.print(describe_note(event), markup=False, highlight=False)

    def show_activity(self, activity: dict[str, Any]) -> None:
        if self._bar is None or activity["started"] != self._started:
            self.close()
            self._started = activity["started"]
            self._bar = self._bars.add_task(_title(activity), total=None)
            self._bars.start()
        waiting = activity.get("waiting")
        title = f"{_title(activity)}: {waiting}" if waiting else _title(activity)
        self._bars.update(
            self._bar,
            description=title,
            completed=activity["done"],
            total=activity["total"] or None,
        )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bars.stop()
            self._bars.remove_task(self._bar)
            self._bar = None


class PlainScreen:
    """A line for each step done, and every `PLAIN_SECONDS` one for the step under way, with the
    time left.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pacer = Pacer()
        self._waiting: str | None = None

    def show_event(self, event: Event) -> None:
        if event.is_step:
            self._pacer.reset()
            self._console.print(describe_step(event), highlight=False)
        elif event.kind in NOTES:
            self._console.print(describe_note(event), markup=False, highlight=False)

    def show_activity(self, activity: dict[str, Any]) -> None:
        waiting = self._waiting
        self._waiting = activity.get("waiting")
        # That the run begins to wait for something is printed at once.
        news = self._waiting is not None and self._waiting != waiting
        if not news and not self._pacer.is_due():
            return
        self._pacer.reset()
        self._console.print(describe_activity(activity), highlight=False)

    def close(self) -> None:
        """Do nothing: lines stay."""


class NotebookScreen:
    """One output of a cell: the steps done, and a bar for the one under way.

    IPython renews that output in place. It needs none of the widgets that rich would ask for, so it
    looks the same in every notebook, and stays in the file.
    """

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._lines: list[str] = []
        self._bar = ""
        self._drawn = 0.0
        self._output = display(HTML(""), display_id=True)

    def show_event(self, event: Event) -> None:
        if event.kind == "step":
            self._lines.append(describe_step(event))
        elif event.kind in NOTES:
            self._lines.append(describe_note(event))
        else:
            return
        self._bar = ""
        self._draw()

    def show_activity(self, activity: dict[str, Any]) -> None:
        done = activity["done"]
        total = activity["total"]
        value = f' value="{int(done)}" max="{int(total)}"' if total else ""
        self._bar = f"<progress{value}></progress> {escape(describe_activity(activity))}"
        if time.monotonic() - self._drawn >= NOTEBOOK_SECONDS:
            self._draw()

    def close(self) -> None:
        """Take the bar away."""
        self._bar = ""
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        lines = escape("\n".join(self._lines))
        self._output.update(self._html(f"<pre>{lines}</pre>{self._bar}"))


class JsonScreen(JsonLines):
    """Every event, and every change of the activity, as a JSON line."""

    def show_event(self, event: Event) -> None:
        self.write({"type": "event"} | asdict(event))

    def show_activity(self, activity: dict[str, Any]) -> None:
        if self.is_new(activity):
            self.write({"type": "progress"} | activity | {"seconds_left": _seconds_left(activity)})


def choose_screen(
    as_json: bool, console: Console
) -> LiveScreen | NotebookScreen | PlainScreen | JsonScreen:
    """Return the screen for where the output goes: a program, a notebook, a terminal or a file."""
    if as_json:
        return JsonScreen()
    if console.is_jupyter:
        return NotebookScreen()
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


def describe_note(event: Event) -> str:
    """Return the line of an event of one of the kinds `NOTES`."""
    return f"{event.kind}: {event.payload[event.kind]}"


def describe_step(event: Event) -> str:
    """Return a finished step as one line."""
    where = f"round {event.round}" if event.round else "start"
    return f"  {where:<9} {event.step:<12}{event.seconds or 0:8.1f} s"


def describe_activity(activity: dict[str, Any]) -> str:
    """Return the step under way, with the rows done and the time left, as one line."""
    left = _seconds_left(activity)
    line = f"{_title(activity)}: {activity['done']}/{activity['total'] or '?'}"
    if waiting := activity.get("waiting"):
        return f"{line}, {waiting}"
    if left is not None:
        return f"{line}, {left:.0f} s left"
    # Rows come in batches: until the first one is through, the time shows that the step goes on.
    return f"{line}, {max(0.0, time.time() - activity['started']):.0f} s so far"


def describe_annotation(annotation: dict[str, Any]) -> Iterator[str]:
    """Yield the state of a run's requests to annotating models: one line for all, and one for each
    batch job under way.
    """
    if counts := ", ".join(
        f"{count} {state}" for state, count in sorted(annotation["requests"].items())
    ):
        yield (
            f"requests: {counts}; {annotation['paid']:.4f} dollars paid, "
            f"{annotation['held']:.4f} held"
        )
    if annotation.get("inherited"):
        yield f"taken over: labels for which another run paid {annotation['inherited']:.4f} dollars"
    if provider := annotation.get("provider"):
        yield describe_provider(provider)
    for job in annotation["batches"]:
        yield (
            f"batch {job['remote']} of round {job['round']}: {job['size']} requests, "
            f"{job['status']}"
        )


def describe_provider(state: dict[str, Any]) -> str:
    """Return what a provider was doing when it was last seen, as one line."""
    parts = [f"{state['in_flight']} calls in flight"]
    if state["waiting_until"]:
        parts.append(f"no call before {state['waiting_until']}")
    if state["queue_full"]:
        parts.append("its queue is full, so that the next batch waits for those under way")
    if state["last_error"]:
        parts.append(f"last error: {state['last_error']}")
    return f"{state['provider']} at {state['time']}: {'; '.join(parts)}"


def plan_table(estimate: dict[str, Any]) -> Table:
    """Return the numbers of a plan as a table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in estimate.items():
        if not isinstance(value, list):
            table.add_row(key.replace("_", " "), "unknown" if value is None else str(value))
    return table


def plan_lines(estimate: dict[str, Any]) -> Iterator[str]:
    """Yield the notes of a plan and the reasons why rows cannot be used."""
    for dead_letter in estimate["dead_letters"]:
        yield f"dead letter {dead_letter}"
    for note in estimate["notes"]:
        yield f"note: {note}"


def curve_table(rows: list[dict[str, Any]], width: int) -> Table:
    """Return the learning curve as a table with a row a round: means, and intervals where a screen
    of `width` columns has room for them.
    """
    # Without a test set the scores are those of the audit, if there is one.
    tested = any(row["metrics"] for row in rows)
    key, ending = ("metrics", "") if tested else ("audit_metrics", " (audit)")
    metrics = sorted({name for row in rows for name in row.get(key) or ()}, key=_metric_order)
    wide = width >= 34 + (22 + len(ending)) * len(metrics)
    titles = [name + ending for name in metrics]
    table = Table("round", "labels", "dollars", "seconds", *titles, box=None, pad_edge=False)
    seconds = 0.0
    for row in rows:
        seconds += sum(row["seconds"].values())
        if few_shot := row.get("few_shot_metrics"):
            table.add_row(
                "shots", "", "", "", *(_estimate(few_shot.get(name), wide) for name in metrics)
            )
        cells = [_estimate((row.get(key) or {}).get(name), wide) for name in metrics]
        table.add_row(
            str(row["round"]), str(row["labels"]), f"{row['dollars']:.2f}", f"{seconds:.0f}", *cells
        )
    return table


def rivals_table(rivalry: dict[str, Any], width: int) -> Table:
    """Return the rivals of the tuned model as a table: by how much it is above each, and their
    scores, with intervals where a screen of `width` columns has room for them.
    """
    metric = rivalry["metric"]
    found = (name for each in rivalry["rivals"] for name in each["metrics"])
    names = dict.fromkeys([metric, *found])
    wide = width >= 60 + 22 * len(names)
    table = Table("rival", f"tuned above it ({metric})", *names, box=None, pad_edge=False)
    for each in rivalry["rivals"]:
        scores = [_estimate(each["metrics"].get(name), wide) for name in names]
        table.add_row(each["name"], _show_difference(each["difference"]), *scores)
    return table


def _show_difference(value: dict[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return "-"
    if value["low"] is None or value["high"] is None:
        return f"{value['mean']:+.3f}"
    return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _metric_order(name: str) -> tuple[bool, str]:
    return not name.startswith("rouge"), name


def _estimate(value: dict[str, Any] | None, wide: bool) -> str:
    if value is None or value["mean"] is None:  # JSON has no NaN
        return "-"
    return f"{value['mean']:.3f}" + (f" [{value['low']:.3f}, {value['high']:.3f}]" if wide else "")


def _title(activity: dict[str, Any]) -> str:
    return (
        f"round {activity['round']} {activity['step']}"
        if activity["round"]
        else str(activity["step"])
    )


def _seconds_left(activity: dict[str, Any]) -> float | None:
    done = activity["done"]
    total = activity["total"]
    return (time.time() - activity["started"]) * (total - done) / done if done and total else None
