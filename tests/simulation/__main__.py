"""Command line of the simulation.

python -m tests.simulation --seeds 0-9999 --hours 8    # goes on where it was
python -m tests.simulation --seed 142 --trace          # one history, every event of it
python -m tests.simulation --planted                   # old bugs, and the seeds that find them
"""

import argparse
import json
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from .history import History, describe, play, play_chunk
from .planted import PLANTED, Planted
from .scenarios import SCENARIOS

CHUNK = 20  # seeds that a process plays before it says so
MOST = 400  # seeds that a planted bug may take


def main() -> int:
    """Play what is asked for; exit with 1 if an invariant broke."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", default="0-299", help="FIRST-LAST, as 0-9999")
    parser.add_argument("--hours", type=float, default=24.0, help="end after so long")
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    parser.add_argument(
        "--planted", nargs="?", const="", help="plant old bugs, or those with a word, and find them"
    )
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument(
        "--state", type=Path, default=Path("build/simulation.jsonl"), help="what was played so far"
    )
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if arguments.planted is not None:
        wanted = [each for each in PLANTED if arguments.planted in each.name]
        found = [show_planted(each) for each in wanted]
        return 0 if all(found) else 1
    if arguments.seed is not None:
        history = play(arguments.seed)
        if arguments.trace:
            print("\n".join(history.trace))
        print(describe(history))
        return history.failure is not None
    first, _, last = arguments.seeds.partition("-")
    return play_many(range(int(first), int(last or first) + 1), arguments)


def play_many(seeds: range, arguments: Any) -> int:
    """Play seeds in several processes until all are played, or the time is over."""
    done = _read(arguments.state)
    chunks = [
        [seed for seed in seeds[start : start + CHUNK] if str(seed) not in done]
        for start in range(0, len(seeds), CHUNK)
    ]
    deadline = time.monotonic() + arguments.hours * 3600
    arguments.state.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with (
        arguments.state.open("a") as log,
        ProcessPoolExecutor(arguments.workers, mp_context=context) as pool,
    ):
        waiting = iter([chunk for chunk in chunks if chunk])
        for rows in _in_turn(pool, waiting, arguments.workers, deadline):
            for row in rows:
                done[str(row["seed"])] = row
                log.write(json.dumps(row) + "\n")
                if row["failure"]:
                    print(row["said"], flush=True)
            log.flush()
            print(_sum_up([done[key] for key in done if int(key) in seeds]), flush=True)
    broken = sorted(int(key) for key, row in done.items() if row["failure"] and int(key) in seeds)
    print(f"broken seeds: {broken or 'none'}")
    return bool(broken)


def _in_turn(
    pool: ProcessPoolExecutor, chunks: Iterator[list[int]], workers: int, deadline: float
) -> Iterator[list[dict[str, Any]]]:
    """Yield what comes back, with no more under way than there are workers."""
    under_way = []
    for chunk in chunks:
        if time.monotonic() > deadline:
            break
        under_way.append(pool.submit(play_chunk, chunk))
        if len(under_way) >= workers:
            yield under_way.pop(0).result()
    for future in under_way:
        yield future.result()


def _sum_up(rows: list[dict[str, Any]]) -> str:
    faults: Counter[str] = Counter()
    for row in rows:
        faults.update(row["faults"])
    named = ", ".join(f"{name} {count}" for name, count in faults.most_common())
    return (
        f"{len(rows)} seeds, {sum(row['events'] for row in rows)} events, "
        f"{sum(row['starts'] for row in rows)} starts, {sum(faults.values())} faults ({named}), "
        f"{sum(bool(row['failure']) for row in rows)} broken"
    )


def _read(state: Path) -> dict[str, dict[str, Any]]:
    """Return what was played before, by seed."""
    if not state.exists():
        return {}
    rows = [json.loads(line) for line in state.read_text().splitlines()]
    return {str(row["seed"]): row for row in rows}


def find(planted: Planted, most: int = MOST) -> tuple[int, History | None]:
    """Return how many histories it takes until a planted bug is found, and the one that finds it."""
    scenarios = [each for each in SCENARIOS if each.name in planted.scenarios]
    for scenario in scenarios:
        play(0, scenario)  # which plays the undisturbed history, without the bug
    with planted.plant():
        for seed in range(most):
            history = play(seed, scenarios[seed % len(scenarios)], focus=planted.focus)
            if history.invariant in planted.breaks:
                found = history
                break
        else:
            return most, None
    return found.seed + 1, found


def show_planted(planted: Planted) -> bool:
    """Print what finds a planted bug; return whether anything does."""
    runs, history = find(planted)
    said = "not found" if history is None else f"seed {history.seed}: {history.failure}"
    print(f"{planted.name} ({planted.origin}): {runs} runs, {said[:200]}", flush=True)
    return history is not None


if __name__ == "__main__":
    sys.exit(main())
