"""Simulation of the audit: bias, error against a simple random sample, and coverage of intervals.

    python benchmarks/active_testing.py --draws 10000

Each world is a pool of 1,000 examples with known scores. An audit is drawn from it again and again,
as a run draws one, and its estimate is held against the mean of the pool. `saved` is the share of
labels that a simple random sample would have needed more for the same error.
"""

import argparse
from typing import Any

import numpy as np

from atgen_ray.core.arrays import Numbers
from atgen_ray.evaluation.audit import count_first, draw_first, draw_second, estimate_mean

NUMBER = 1_000
SHARES = np.array([0.05, 0.9, 0.5, 0.1, 0.95, 0.5])  # of right answers in each group
World = tuple[Any, Any, tuple[float, float]]


def make_worlds() -> tuple[dict[str, World], Any]:
    """Return scores, features and bounds of each world, and the groups of all."""
    rng = np.random.default_rng(1)
    groups = rng.choice(6, NUMBER, p=[0.35, 0.25, 0.15, 0.1, 0.1, 0.05])
    hidden = rng.normal(size=NUMBER)
    none, noise = np.zeros((NUMBER, 0)), rng.normal(size=(NUMBER, 5))
    telling = np.column_stack([hidden + rng.normal(size=NUMBER) / 2, noise])
    unit = (0.0, 1.0)

    def hit(chance: Numbers | float) -> Numbers:
        return (rng.random(NUMBER) < chance).astype(float)

    worlds = {
        "right or wrong, groups tell": (hit(SHARES[groups]), none, unit),
        "right or wrong, embeddings tell": (hit(1 / (1 + np.exp(-2.5 * hidden))), telling, unit),
        "right or wrong, nothing tells": (hit(0.4), noise, unit),
        "3 % wrong, nothing tells": (hit(0.97), noise, unit),
        "2 % right, all in one group": (hit(np.array([0, 0, 0, 0, 0, 0.4])[groups]), none, unit),
        "ROUGE, groups tell": (rng.beta(2, 3, NUMBER) / 2 + SHARES[groups] / 2, none, unit),
        "nats, skewed": (rng.gamma(1.5, 1, NUMBER) * (1 + SHARES[groups]), none, (0.0, np.inf)),
        "difference of two models": (
            rng.choice([-1.0, 0, 1], NUMBER, p=[0.05, 0.8, 0.15]),
            none,
            (-1.0, 1.0),
        ),
    }
    return worlds, groups


def simulate(world: World, groups: Numbers, labels: int, draws: int) -> str:
    """Return the cells of a row of the table."""
    values, features, bounds = world
    ids = [f"{number:04d}" for number in range(NUMBER)]
    rng = np.random.default_rng(labels)
    found = []
    for _ in range(draws):
        first = draw_first(ids, groups.astype(np.int64), count_first(labels, NUMBER), rng)
        seen = values[[int(id_) for id_ in first.ids]]
        rest = labels - len(first.ids)
        sample = draw_second(ids, groups.astype(np.int64), features, first, seen, rest, rng)
        score = estimate_mean(sample, values[[int(id_) for id_ in sample.ids]], bounds)
        assert score is not None
        found.append((score.mean, score.low, score.high))
    means, lows, highs = np.array(found).T
    truth = values.mean()
    noise = means.std() / np.sqrt(draws)
    even = values.var(ddof=1) / labels * (1 - labels / NUMBER)
    held = np.mean((lows - 1e-9 <= truth) & (truth <= highs + 1e-9))
    return (
        f"{truth:.3f} | {means.mean() - truth:+.4f} ± {2 * noise:.4f} | "
        f"{1 - means.var() / even:+.0%} | {held:.1%} | {np.mean(highs - lows):.3f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=10_000, help="audits for each row")
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 40, 100])
    arguments = parser.parse_args()
    worlds, groups = make_worlds()
    print("| world | labels | score | bias | saved | 95 % interval holds | its width |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, world in worlds.items():
        for labels in arguments.labels:
            cells = simulate(world, groups, labels, arguments.draws)
            print(f"| {name} | {labels} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
