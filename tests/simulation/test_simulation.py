"""The simulated world of faults: seeds that pass, and bugs that it finds."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .history import play
from .invariants import INVARIANTS
from .planted import PLANTED, Planted
from .scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SEEDS = range(1000, 1300)
# Seeds that find the planted bugs, as `python -m tests.simulation --planted` does.
FINDS = {
    "write first, meet the lease afterwards": 7,
    "work of a dead controller stays when its step is taken over": 5,
    "a paid batch is given up that was not found for a moment": 4,
    "work stays whose controller died right after the event": 2,
    "half a receipt stays": 2,
    "a request is sent twice after a lost reply": 2,
    "held money is never released": 3,
}


def test_invariants_hold_in_three_hundred_histories() -> None:
    faults = Counter[str]()
    checks = Counter[str]()
    for seed in SEEDS:
        history = play(seed)
        assert history.failure is None, f"seed {seed}: {history.failure}"
        faults.update(history.faults)
        checks.update(history.checks)
    assert {"kill", "pause", "clock"} <= faults.keys()
    assert {"commit-fails", "commit-unanswered", "reply-lost", "rename-lost"} <= faults.keys()
    assert checks.keys() <= INVARIANTS.keys()
    assert min(checks[name] for name in ("lease", "paid-once", "journalled", "named")) > 1000


def test_an_undisturbed_history_of_each_scenario_ends_at_its_first_start() -> None:
    for scenario in SCENARIOS:
        history = play(0, scenario, quiet=True)
        assert (history.failure, history.starts) == (None, 1)


def test_one_seed_is_one_history_in_any_process() -> None:
    one, other = trace_in_process([3, 11], "1"), trace_in_process([11, 3], "2")
    assert one == other[::-1]
    assert one[0] == play(3).trace  # after other histories, too
    assert one[0] != one[1]


def trace_in_process(seeds: list[int], hash_seed: str) -> list[list[str]]:
    code = (
        "import json\nfrom tests.simulation.history import play\n"
        f"print(json.dumps([play(seed).trace for seed in {seeds}]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    traces: list[list[str]] = json.loads(found.stdout.splitlines()[-1])
    return traces


@pytest.mark.parametrize("planted", PLANTED, ids=lambda each: each.name)
def test_the_simulation_can_fail(planted: Planted) -> None:
    scenarios = [each for each in SCENARIOS if each.name in planted.scenarios]
    seed = FINDS[planted.name]
    scenario = scenarios[seed % len(scenarios)]
    assert play(seed, scenario, focus=planted.focus).failure is None
    with planted.plant():
        assert play(seed, scenario, focus=planted.focus).invariant in planted.breaks
