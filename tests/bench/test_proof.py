"""The verdicts of benchmarks/proof.py on rows whose truth is known."""

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/proof.py"
FALL = 0.3  # nats that a doubling of labels is worth


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proof", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["proof"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def make_rows(
    strategies: dict[str, float],
    tasks: list[str],
    seeds: range,
    orders: int,
    labels: list[int],
    noise: float = 0.02,
) -> list[dict[str, Any]]:
    """Curves that fall by FALL a doubling; a strategy is worth so many doublings more."""
    draw = random.Random(f"{strategies} {tasks}")
    return [
        {
            "task": task,
            "strategy": strategy,
            "seed": seed,
            "order": order,
            "labels": labels,
            "scores": [
                3.0 - FALL * (float(np.log2(at)) + worth) + draw.gauss(0, noise) for at in labels
            ],
        }
        for task in tasks
        for strategy, worth in strategies.items()
        for seed in seeds
        for order in range(orders)
    ]


def write_all(proof: ModuleType, folder: Path, worth: float) -> None:
    """All four claims; the diverse and the targeted strategy are worth so many doublings."""
    both = {"random": 0.0, "random_again": 0.0}
    tail = make_rows(both | {"diverse": worth}, ["one"], range(1, 13), 2, [24, 48, 72, 96])
    aims = ["a", "b", "c"]
    target = make_rows(both | {"diverse": 0.0, "targeted": worth}, aims, range(21, 29), 1, [32, 64])
    control = make_rows(both | {"diverse": 0.0}, ["x", "y"], range(41, 53), 1, [24, 48])
    audits = [
        {"task": task, "pool": pool, "labels": labels, "even": 1.0, "bias": 0.0, "held": 0.95}
        | {"audit": 2.0 ** (-worth - 0.01 * pool)}
        for task in ("a", "b", "c", "d")
        for pool in range(6)
        for labels in (40, 80, 160)
    ]
    for name, rows in zip(proof.SUITES, (audits, tail, target, control), strict=True):
        proof.write_rows(name, rows, folder)


def read_verdicts(page: str) -> dict[str, str]:
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    return {row[1][:1]: row[8] for row in cells if len(row) > 8 and row[1][1:2] == ":"}


def test_what_is_there_is_shown_and_what_is_not_is_not(proof: ModuleType, tmp_path: Path) -> None:
    write_all(proof, tmp_path, 1.0)
    page = proof.describe_verdicts(tmp_path)
    assert read_verdicts(page) == dict.fromkeys("ABCD", "shown")
    assert "B: `diverse` has at 48 labels what `random` has at 96." in page
    assert "| all | 80 | 51% |" in page
    write_all(proof, tmp_path, -1.0)
    page = proof.describe_verdicts(tmp_path)
    assert read_verdicts(page) == dict.fromkeys("ABC", "not shown") | {"D": "shown"}
    assert "B: `diverse` has at inf labels" in page


def test_a_difference_is_no_equivalence(proof: ModuleType) -> None:
    assert proof.find_equivalence([0.01, -0.02, 0.0, 0.015] * 3, 0.2) < 0.001
    assert proof.find_equivalence([0.3, 0.28, 0.31, 0.29] * 3, 0.2) > 0.99
    assert proof.find_equivalence([1.0, -1.1, 0.9, -0.8] * 3, 0.2) > 0.1  # noise shows nothing


def test_what_is_missing_shows_nothing(proof: ModuleType, tmp_path: Path) -> None:
    """A suite half done has no verdict, a pool without all of its runs no place, and a claim that
    was not tried weakens the others as one that failed.
    """
    assert read_verdicts(proof.describe_verdicts(tmp_path)) == {}
    both = {"random": 0.0, "random_again": 0.0}
    rows = make_rows(both | {"diverse": 1.0}, ["one"], range(1, 13), 2, [24, 48, 72, 96])
    proof.write_rows("proof-tail", rows[:-1], tmp_path)  # of the last seed one order is missing
    page = proof.describe_verdicts(tmp_path)
    assert read_verdicts(page) == {"B": "unfinished"}
    (line,) = [line for line in page.splitlines() if line.startswith("| B: ")]
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[3] == "11"
    assert float(cells[7]) == pytest.approx(4 * float(cells[6]), rel=0.05)  # Holm over four


def test_rows_of_another_plan_are_refused(
    proof: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(proof, tmp_path, 1.0)
    monkeypatch.setattr(proof, "hash_plan", lambda: "0" * 64)
    with pytest.raises(SystemExit, match="was made under plan"):
        proof.describe_verdicts(tmp_path)


def test_audits_of_a_pool_that_groups_tell_save_labels(proof: ModuleType) -> None:
    """Six tight clusters of vectors, each with its own score."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 6, 300)
    vectors = np.eye(8)[groups] + rng.normal(0, 0.01, (300, 8))
    values = groups + rng.normal(0, 0.3, 300) + 2
    found = proof.draw_audits(values, vectors, 40, 60, seed=1)
    assert found["audit"] < 0.5 * found["even"]
    assert abs(found["bias"]) < 4 * (found["audit"] / 60) ** 0.5
    assert found["held"] > 0.8
    assert json.dumps(found)  # plain numbers
