"""Fifty people at one queue: none of 1,000 tasks is lost or labelled twice, and how long an answer
takes.

    python benchmarks/annotators.py [--people 50] [--tasks 1000] [--output
    benchmarks/results/annotators]

One process serves the API over HTTP on SQLite; each simulated annotator leases a task, saves a
draft and submits, as fast as it is answered and with every fifth submit sent twice. The peer is the
same number of plain reads of /healthz by as many callers at once: what HTTP itself costs here.
Writes PREFIX.json and PREFIX.md.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from helpers.desk_server import DeskServer  # noqa: E402
from helpers.human_desk import HumanDesk  # noqa: E402
from helpers.ports import free_port  # noqa: E402
from helpers.services import bearer  # noqa: E402

from atgen_ray.serving.security.tokens import Tokens  # noqa: E402
from atgen_ray.store.journal import Journal  # noqa: E402
from atgen_ray.store.ledger import read_balance  # noqa: E402


def timed(
    times: list[tuple[str, float]], what: str, client: httpx.Client, *request: Any, **body: Any
) -> Any:
    started = time.perf_counter()
    answer = client.request(*request, **body)
    times.append((what, time.perf_counter() - started))
    answer.raise_for_status()
    return answer.json()


def work(url: str, token: str, run: str) -> list[tuple[str, float]]:
    """One person, until nothing is open."""
    times: list[tuple[str, float]] = []
    path = f"/api/v1/runs/{run}/tasks"
    with httpx.Client(base_url=url, headers=bearer(token), timeout=120) as client:
        number = 0
        while tasks := timed(times, "lease", client, "POST", f"{path}/lease", json={})["tasks"]:
            id_ = tasks[0]["id"]
            timed(
                times,
                "draft",
                client,
                "PUT",
                f"{path}/{id_}/draft",
                json={"text": "half", "revision": 1},
            )
            headers, number = {"Idempotency-Key": uuid4().hex}, number + 1
            for _ in range(1 + (number % 5 == 0)):
                body = {"text": f"label of {id_}", "seconds": 1.0}
                timed(
                    times,
                    "submit",
                    client,
                    "POST",
                    f"{path}/{id_}/submit",
                    json=body,
                    headers=headers,
                )
    return times


def read_health(url: str, count: int) -> list[tuple[str, float]]:
    times: list[tuple[str, float]] = []
    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(count):
            timed(times, "healthz", client, "GET", "/healthz")
    return times


def describe(times: list[tuple[str, float]]) -> list[dict[str, Any]]:
    rows = []
    for what in dict.fromkeys(name for name, _ in times):
        taken = np.array([seconds for name, seconds in times if name == what]) * 1000
        middle, high, most = (
            round(float(np.percentile(taken, share)), 1) for share in (50, 95, 100)
        )
        rows.append(
            {"request": what, "count": len(taken), "p50_ms": middle, "p95_ms": high, "max_ms": most}
        )
    return rows


def measure(people: int, tasks: int, storage: Path) -> dict[str, Any]:
    server = DeskServer(storage, free_port())
    server.start()
    try:
        journal = Journal(f"sqlite:///{storage}/atgen.db")
        desk = HumanDesk(journal, tasks, price_per_label=0.5)
        desk.publish_tasks()
        known = Tokens(journal.database)
        tokens = [known.create("annotator", f"person-{number}") for number in range(people)]
        with ThreadPoolExecutor(people) as pool:
            peer = [
                each
                for found in pool.map(lambda _: read_health(server.url, 20), tokens)
                for each in found
            ]
            started = time.perf_counter()
            found = list(pool.map(lambda token: work(server.url, token, desk.run), tokens))
            seconds = time.perf_counter() - started
    finally:
        server.kill()
    labels, dead = desk.round().collect_labels()
    counts = Counter(label.id for label in labels)
    report = {"people": people, "tasks": tasks, "seconds": round(seconds, 1), "requests": []}
    report |= {
        "labels_a_second": round(tasks / seconds, 1),
        "lost": tasks - len(counts),
        "dead": len(dead),
    }
    report["doubled"] = sum(count > 1 for count in counts.values())
    report["wrong"] = sum(label.text != f"label of {label.id}" for label in labels)
    report["dollars"] = read_balance(journal, desk.run).paid
    report["requests"] = describe([each for times in found for each in times] + peer)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/annotators"), metavar="PREFIX"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = measure(arguments.people, arguments.tasks, Path(name))
    rows = report["requests"]
    lines = [f"| {' | '.join(rows[0])} |", "|" + " --- |" * len(rows[0])]
    lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    summary = ", ".join(f"{key} {value}" for key, value in report.items() if key != "requests")
    table = "\n".join([*lines, "", summary, ""])
    prefix = arguments.output
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    prefix.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
