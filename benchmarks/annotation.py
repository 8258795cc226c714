"""Annotation: what faults of providers cost (nothing), and how fast rows are labelled against a
slow provider.

    python benchmarks/annotation.py [--output benchmarks/results/annotation] [--only
    faults|throughput]

Both run against the stand-in of tests/fakes, which speaks OpenAI's and Anthropic's wires over HTTP,
through the official SDKs. The sequential time is measured on a sample of rows and multiplied.
Writes PREFIX.json, PREFIX.md and PREFIX.png.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

from helpers.annotation_desk import Desk, configure, make_texts  # noqa: E402
from helpers.fakes.provider import FakeProvider, run_provider  # noqa: E402
from helpers.faults import list_trials, try_fault  # noqa: E402

LATENCY = 0.2  # seconds of every answer
COLUMNS = ("lost", "paid_twice", "mislabelled", "missing", "doubt", "labelled", "dead", "pauses")


def try_faults(provider: FakeProvider, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for number, (fault, kind, mode) in enumerate(list_trials()):
        place = folder / f"fault-{number}"
        place.mkdir()
        account = try_fault(fault, provider, place, kind, mode)
        counts = {name: getattr(account, name) for name in COLUMNS}
        rows.append({"fault": fault.name, "provider": kind, "mode": mode} | counts)
    return rows


def measure_throughput(
    provider: FakeProvider, folder: Path, rows: int, sample: int
) -> list[dict[str, Any]]:
    found = []
    for name, count, concurrency in (
        ("sequential", sample, 1),
        ("16 at once", rows, 16),
        ("64 at once", rows, 64),
    ):
        provider.reset()
        provider.set(latency=LATENCY)
        place = folder / name.replace(" ", "-")
        place.mkdir()
        desk = Desk(
            provider,
            place,
            configure(provider, "openai", "sync", concurrency=concurrency),
            make_texts(count),
        )
        started = time.perf_counter()
        labels, dead = desk.annotate()
        seconds = time.perf_counter() - started
        assert (len(labels), len(dead)) == (count, 0)
        found.append({"how": name, "measured_rows": count, "seconds": round(seconds, 1)})
        found[-1] |= {
            "seconds_for_all": round(seconds * rows / count, 1),
            "rows_a_second": round(count / seconds, 1),
        }
        print(found[-1], flush=True)
    return found


def tabulate(report: dict[str, list[dict[str, Any]]]) -> str:
    parts = []
    for rows in report.values():
        names = list(rows[0])
        lines = [
            f"| {' | '.join(name.replace('_', ' ') for name in names)} |",
            "|" + " --- |" * len(names),
        ]
        parts.append(
            "\n".join(
                [*lines, *(f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows)]
            )
        )
    return "\n\n".join(parts) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.barh([row["how"] for row in rows], [row["rows_a_second"] for row in rows])
    axes.set_xlabel(f"rows a second, {LATENCY * 1000:.0f} ms an answer")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/annotation"), metavar="PREFIX"
    )
    parser.add_argument("--only", choices=["faults", "throughput"])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--sample", type=int, default=100, help="rows of the sequential measurement"
    )
    arguments = parser.parse_args()
    report: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, run_provider(Path(name)) as provider:
        if arguments.only != "faults":
            report["throughput"] = measure_throughput(
                provider, Path(name), arguments.rows, arguments.sample
            )
        if arguments.only != "throughput":
            report["faults"] = try_faults(provider, Path(name))
    prefix = arguments.output
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    prefix.with_suffix(".md").write_text(tabulate(report))
    print(tabulate(report))
    if "throughput" in report:
        draw(report["throughput"], prefix.with_suffix(".png"))


if __name__ == "__main__":
    main()
