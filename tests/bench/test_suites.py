"""The suites that are shipped are valid, and as large as they say."""

from pathlib import Path

import pytest

from atgen_ray.bench.grid import list_trials, load_suite

SUITES = Path(__file__).parents[2] / "benchmarks/suites"


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_suite_makes_valid_runs(path: Path) -> None:
    suite = load_suite(str(path), [])
    trials = list_trials(suite)
    assert suite.analysis.baseline == "random"
    assert len(trials) == len({trial.run.name for trial in trials})


@pytest.mark.parametrize("name", ["nightly", "paper"])
def test_the_large_suites_can_carry_a_claim(name: str) -> None:
    suite = load_suite(str(SUITES / f"{name}.yaml"), [])
    assert len(suite.tasks) >= 4
    assert len(suite.strategies) >= 6
    assert len(suite.seeds) >= 5


def test_the_papers_protocol_buys_4_to_12_percent() -> None:
    pools = {"triviaqa": 10_000, "gsm8k": 7473, "race": 10_000, "aeslc": 14_436}
    trials = {
        trial.task: trial.run for trial in list_trials(load_suite(str(SUITES / "paper.yaml"), []))
    }
    assert set(trials) == set(pools)
    for task, run in trials.items():
        first = run.selection.first.count or 0
        last = first + (run.stopping.rounds - 1) * run.selection.count
        assert first / pools[task] == pytest.approx(0.04, abs=0.001)
        assert last / pools[task] == pytest.approx(0.12, abs=0.001)
