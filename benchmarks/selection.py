"""Selection at pool scale: time, memory and value of the strategies, beside their peers in the same
run.

    python benchmarks/selection.py [--quick] [--largest N] [--only CASE ...] [--output FOLDER]

Writes selection.json, selection.md and selection.png into the folder. Every measurement is made in
a process of its own, with its own Ray for large pools, so that its peak memory is its own. Peers:
submodlib (lazy greedy on a dense kernel), a loop over scipy's Jensen-Shannon distance, and a dense
similarity matrix. `pip install -e .[dev]` brings them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from selection_cases import CASES, Result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small pools: a minute in all")
    parser.add_argument("--largest", type=int, default=1_000_000, help="largest pool, in examples")
    parser.add_argument("--only", nargs="*", choices=[*PLANS], help="these cases alone")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-selection"), help="folder of the results"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    largest = 10_000 if arguments.quick else arguments.largest
    rows = []
    for case in arguments.only or PLANS:
        for settings in PLANS[case](arguments.quick, largest):
            rows.append({"case": case} | run_child({"case": case, **settings}))
            print(json.dumps(rows[-1]), flush=True)
    report = {
        "machine": describe_machine(),
        "rows": rows,
        "goals": judge(rows),
        "growth": fit_growth(rows),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "selection.json").write_text(json.dumps(report, indent=1))
    table = tabulate(report)
    (arguments.output / "selection.md").write_text(table)
    draw(report, arguments.output / "selection.png")
    print(table)


def run_child(settings: Result) -> Result:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: str, **settings: Any) -> Result:
    with ThreadPoolExecutor() as threads:
        done = Event()
        used = threads.submit(watch_processes, done)
        try:
            found = CASES[case](**settings)
        finally:
            done.set()
    return settings | found | used.result()


def watch_processes(done: Event) -> Result:
    """The most memory in GB that this process and all below it held together until `done` (what
    they share is counted once), and the seconds that processors worked for them, imports included:
    on a machine that others use these say more than the clock.
    """
    import psutil

    peak = 0
    worked: dict[int, float] = {}
    while not done.wait(0.5) or not peak:
        here = psutil.Process()
        held = 0
        for process in (here, *here.children(recursive=True)):
            with suppress(psutil.Error):
                held += process.memory_full_info().pss
                times = process.cpu_times()
                worked[process.pid] = times.user + times.system
        peak = max(peak, held)
    return {"peak_gb": round(peak / 2**30, 2), "cpu_seconds": round(sum(worked.values()))}


def plan_exact(quick: bool, largest: int) -> list[Result]:
    size = 2000 if quick else 10_000
    pools = [{"size": size, "count": size // 10, "kind": kind} for kind in ("clustered", "random")]
    return [pool | {"method": method} for pool in pools for method in ("exact", "submodlib")]


def plan_near_exact(quick: bool, largest: int) -> list[Result]:
    size = 4000 if quick else 20_000
    pools = [{"size": size, "count": size // 20, "kind": kind} for kind in ("clustered", "random")]
    return [
        pool | {"method": method}
        for pool in pools
        for method in ("exact", "partition", "stochastic", "sparse")
    ]


def plan_large(quick: bool, largest: int) -> list[Result]:
    methods: dict[int, tuple[str, ...]] = {
        min(largest, 100_000): ("partition", "stochastic", "sparse", "subsample")
    }
    if largest >= 1_000_000:
        methods[1_000_000] = ("partition", "subsample")
    return [
        {"size": size, "count": 100 if quick else 1000, "kind": kind, "method": method}
        for size, names in methods.items()
        for kind in (("clustered", "random") if size <= 100_000 else ("clustered",))
        for method in names
    ]


def plan_idds(quick: bool, largest: int) -> list[Result]:
    small = [
        {"size": 2000 if quick else 10_000, "count": 100, "method": method}
        for method in ("closed form", "dense")
    ]
    return small + [{"size": min(100_000, largest), "count": 100, "method": "closed form"}] * (
        not quick
    )


def plan_hadas(quick: bool, largest: int) -> list[Result]:
    pairs = {"size": 200 if quick else 1000, "labeled": 200 if quick else 300}
    whole = {"size": 10_000, "labeled": 1000, "method": "vectorised"}
    return [pairs | {"method": "loop"}, pairs | {"method": "vectorised"}, whole]


def plan_growth(quick: bool, largest: int) -> list[Result]:
    sizes = [
        size
        for size in (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
        if size <= largest
    ]
    methods = ("random", "idds", "k_center", "facility_location")
    return [{"size": size, "count": 100, "method": method} for method in methods for size in sizes]


PLANS: dict[str, Callable[[bool, int], list[Result]]] = {
    "exact": plan_exact,
    "near exact": plan_near_exact,
    "large": plan_large,
    "idds": plan_idds,
    "hadas": plan_hadas,
    "growth": plan_growth,
}


def judge(rows: list[Result]) -> list[Result]:
    """What was aimed at, and what was found."""

    def pick(case: str, **settings: Any) -> Any:
        return next(
            (
                r
                for r in rows
                if r["case"] == case and all(r.get(k) == v for k, v in settings.items())
            ),
            None,
        )

    goals: list[Result] = []
    for ours in (row for row in rows if row["case"] == "exact" and row["method"] == "exact"):
        peer = pick("exact", kind=ours["kind"], method="submodlib")
        speed, value = peer["seconds"] / ours["seconds"], ours["value"] / peer["value"]
        found = f"{speed:.1f} times as fast, {value:.6f} of the value"
        aim = (
            f"facility location, {ours['size']:,} {ours['kind']}: 3 times as fast as submodlib "
            f"at equal value"
        )
        goals.append({"aim": aim, "found": found, "met": speed >= 3 and abs(value - 1) < 1e-4})
    for case, method, peer_name in (
        ("near exact", "exact", "plain greedy"),
        ("large", "subsample", "greedy on 10,000"),
    ):
        aim_share = 0.998 if method == "subsample" else 0.98
        for row in (row for row in rows if row["case"] == case and row["method"] != method):
            dense = pick(case, size=row["size"], kind=row["kind"], method=method)
            share = row["value"] / dense["value"]
            found = f"{share:.4f} of {peer_name}, {row['peak_gb']} GB, {row['seconds']} s"
            aim = (
                f"{row['method']}, {row['size']:,} {row['kind']}: {aim_share:.1%} of the value of "
                f"{peer_name}, within 8 GB"
            )
            met = row["peak_gb"] < 8 and share > aim_share
            goals.append({"aim": aim, "found": found, "met": met})
    if big := pick("idds", size=100_000):
        found = f"{big['peak_gb']} GB, {big['seconds']} s"
        goals.append(
            {
                "aim": "IDDS, 100,000 x 768, no matrix of all pairs",
                "found": found,
                "met": big["peak_gb"] < 4,
            }
        )
    if loop := pick("hadas", method="loop"):
        fast = pick("hadas", method="vectorised", size=loop["size"])
        speed = loop["seconds"] / fast["seconds"]
        same = abs(fast["value"] / loop["value"] - 1) < 1e-9
        aim = "HADAS diversity: 40 times as fast as the double loop"
        goals.append(
            {"aim": aim, "found": f"{speed:.0f} times as fast", "met": speed >= 40 and same}
        )
    return goals


def fit_growth(rows: list[Result]) -> dict[str, float]:
    """Exponent b of seconds ~ size^b, over the pools that take more than 50 ms."""
    exponents = {}
    for method in dict.fromkeys(row["method"] for row in rows if row["case"] == "growth"):
        points = [
            (r["size"], r["seconds"])
            for r in rows
            if r["case"] == "growth" and r["method"] == method
        ]
        slow = [point for point in points if point[1] > 0.05]
        if len(slow) >= 2:
            sizes, seconds = np.log(np.array(slow)).T
            exponents[method] = round(float(np.polyfit(sizes, seconds, 1)[0]), 2)
    return exponents


def describe_machine() -> Result:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
    }


def tabulate(report: Result) -> str:
    lines = [
        "| case | size | count | kind | method | seconds | CPU seconds | peak GB | value | best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        value = f"{row['value']:.5f}" if "value" in row else ""
        cells = [
            row["case"],
            f"{row['size']:,}",
            row.get("count", row.get("labeled")),
            row.get("kind", ""),
            row["method"],
        ]
        cells += [row["seconds"], row["cpu_seconds"], row["peak_gb"], value, row.get("bound", "")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| aim | found | met |", "|---|---|---|"]
    lines += [
        f"| {goal['aim']} | {goal['found']} | {'yes' if goal['met'] else 'no'} |"
        for goal in report["goals"]
    ]
    exponents = ", ".join(f"{name} {exponent}" for name, exponent in report["growth"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"Growth of time with pool size, as an exponent: {exponents or 'not measured'}.",
            "",
        ]
    )


def draw(report: Result, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    bars = [row for row in report["rows"] if row["case"] in ("exact", "near exact", "large")]
    names = [f"{row['method']}, {row['size']:,} {row['kind']}" for row in bars]
    left.barh(
        names,
        [row["seconds"] for row in bars],
        color=["C1" if "submodlib" in name else "C0" for name in names],
    )
    left.set(xscale="log", xlabel="seconds", title="Facility location")
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    for method in dict.fromkeys(row["method"] for row in report["rows"] if row["case"] == "growth"):
        rows = [
            row for row in report["rows"] if row["case"] == "growth" and row["method"] == method
        ]
        label = f"{method} (n^{report['growth'][method]})" if method in report["growth"] else method
        right.plot(
            [row["size"] for row in rows],
            [max(row["seconds"], 1e-3) for row in rows],
            "o-",
            label=label,
        )
        right.legend()
    right.set(
        xscale="log",
        yscale="log",
        xlabel="pool size",
        ylabel="seconds",
        title="100 picks, 384 dimensions",
    )
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
