"""From Submit to the next task, at 100,000 tasks and fifty people over HTTP; and ten items in a
browser.

    python benchmarks/desk.py [--tasks 100000] [--people 50] [--seconds 60] [--pause 5] [--plain]
    [--output benchmarks/results/desk]

One process serves the API and pages on SQLite. Each simulated person works as the page does: the
next task is one that was prepared, the answer is sent, and the desk is filled again; then the
person pauses for `--pause` seconds on average. Meanwhile a browser labels: the time from the keys
of Submit until the next task is painted, and seconds and keystrokes for ten items, first with the
draft accepted, then with a text of 40 characters typed. `--plain` is for a version without prepared
tasks, where the next task is leased after the answer was sent. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from helpers.browsing import Visitor, launch_chromium  # noqa: E402
from helpers.desk_server import DeskServer  # noqa: E402
from helpers.human_desk import HumanDesk  # noqa: E402
from helpers.ports import free_port  # noqa: E402
from helpers.services import bearer  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

from atgen_ray.serving.security.tokens import Tokens  # noqa: E402
from atgen_ray.store.journal import Journal  # noqa: E402

TYPED = "The river rose after the rain of a week."  # 40 characters
# Notes how long it takes from the keys of Submit to the first frame with another answer.
STOPWATCH = """
() => {
  window.submits = [];
  const answer = document.getElementById("answer");
  const input = document.getElementById("input");
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey && event.key === "Enter")) return;
    const started = performance.now();
    const before = input.textContent;
    const look = () => {
      const next = input.textContent !== before && answer.value;
      if (next) window.submits.push(performance.now() - started);
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }, true);
}
"""


def work(
    url: str, token: str, run: str, until: float, pause: float, plain: bool
) -> list[tuple[str, float]]:
    """One person until `until`: pairs of what was waited for, and seconds."""
    path = f"/api/v1/runs/{run}/tasks"
    times: list[tuple[str, float]] = []
    with httpx.Client(base_url=url, headers=bearer(token), timeout=120) as client:

        def post(what: str, to: str, body: dict[str, Any], **options: Any) -> Any:
            started = time.perf_counter()
            answer = client.post(f"{path}/{to}", json=body, **options)
            times.append((what, time.perf_counter() - started))
            answer.raise_for_status()
            return answer.json()

        def fill(hand: str | None, besides: list[str]) -> list[str]:
            body: dict[str, Any] = {"count": 1, "besides": besides}
            if not plain:
                body |= {"count": 3, "ahead": 2, "hand": hand}
            return [task["id"] for task in post("lease", "lease", body)["tasks"]]

        desk = fill(None, [])
        while desk and time.monotonic() < until:
            time.sleep(random.uniform(0, 2 * pause))
            started = time.perf_counter()
            done, *desk = desk
            if desk:
                times.append(("next", time.perf_counter() - started))
            headers = {"Idempotency-Key": uuid4().hex}
            post("submit", f"{done}/submit", {"text": f"label of {done}"}, headers=headers)
            ready = bool(desk)
            desk = fill(desk[0] if desk else None, [done])
            if not ready:
                times.append(("next", time.perf_counter() - started))
    return times


def label_ten(page: Page, text: str | None) -> tuple[int, float]:
    """Keystrokes and seconds for ten items, each labelled by its draft or by `text`."""
    strokes = 0
    started = time.perf_counter()
    for _ in range(10):
        done = page.evaluate("window.submits.length")
        if text is not None:
            page.keyboard.press("Control+a")
            page.keyboard.type(text)
            strokes += 1 + len(text)
        page.keyboard.press("Control+Enter")
        strokes += 1
        page.wait_for_function("(done) => window.submits.length > done", arg=done, polling=5)
    return strokes, time.perf_counter() - started


def browse(server: DeskServer, token: str, run: str, until: float) -> dict[str, Any]:
    """What a person with a browser sees, until `until`."""
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        visitor: Any = Visitor(browser, server, token)  # type: ignore[arg-type]
        page = visitor.open(f"/annotate/{run}")
        page.locator("#work").wait_for()
        page.wait_for_function("document.getElementById('answer').value !== ''")
        page.wait_for_timeout(2000)
        page.evaluate(STOPWATCH)
        accepted = label_ten(page, None)
        page.wait_for_timeout(2000)
        typed = label_ten(page, TYPED)
        fast = page.evaluate("window.submits.length")
        slow = 0
        while time.monotonic() < until or slow < 10:  # at a person's pace
            page.wait_for_timeout(2500)
            page.keyboard.press("Control+Enter")
            slow += 1
        page.wait_for_timeout(2500)
        submits = [each / 1000 for each in page.evaluate("window.submits")]
        browser.close()
    painted = {"fast": submits[:fast], "slow": submits[fast:]}
    return {"accepted": accepted, "typed": typed, "painted": painted}


def describe(what: str, taken: list[float]) -> dict[str, Any]:
    shares = [float(np.percentile(np.array(taken) * 1000, share)) for share in (50, 95, 100)]
    p50, p95, most = (round(share, 1) for share in shares)
    return {"what": what, "count": len(taken), "p50_ms": p50, "p95_ms": p95, "max_ms": most}


def measure(options: argparse.Namespace, storage: Path) -> dict[str, Any]:
    server = DeskServer(storage, free_port())
    server.start()
    try:
        journal = Journal(f"sqlite:///{storage}/atgen.db")
        desk = HumanDesk(journal, options.tasks)
        desk.publish_tasks()
        known = Tokens(journal.database)
        tokens = [known.create("annotator", f"person-{at}") for at in range(options.people)]
        until = time.monotonic() + options.seconds
        with ThreadPoolExecutor(options.people) as pool:
            arguments = (desk.run, until, options.pause, options.plain)
            jobs = [pool.submit(work, server.url, token, *arguments) for token in tokens[1:]]
            seen = browse(server, tokens[0], desk.run, until)
            times = [each for job in jobs for each in job.result()]
    finally:
        server.kill()
    assert threading.active_count() < options.people
    rows = [
        describe(what, [taken for name, taken in times if name == what])
        for what in ("next", "submit", "lease")
    ]
    painted = seen["painted"]
    rows.append(describe("painted in the browser, twenty at once", painted["fast"]))
    if painted["slow"]:
        rows.append(describe("painted in the browser, every 2.5 s", painted["slow"]))
    report: dict[str, Any] = {"tasks": options.tasks, "people": options.people, "rows": rows}
    for kind in ("accepted", "typed"):
        strokes, seconds = seen[kind]
        report[f"ten_{kind}"] = {"keystrokes": strokes, "seconds": round(seconds, 2)}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=5.0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/desk"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = measure(options, Path(name))
    rows = report["rows"]
    lines = [f"| {' | '.join(rows[0])} |", "|" + " --- |" * len(rows[0])]
    lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    for kind in ("accepted", "typed"):
        ten = report[f"ten_{kind}"]
        lines += ["", f"ten items {kind}: {ten['keystrokes']} keystrokes, {ten['seconds']} s"]
    table = "\n".join([*lines, ""])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
