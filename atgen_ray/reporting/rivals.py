"""Whether fine-tuning was worth it: the tuned model beside its rivals, on the same examples by the
same metric.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from atgen_ray.evaluation import METRICS
from atgen_ray.evaluation.audit import AuditSample, compare_audited
from atgen_ray.reporting.comparison import bootstrap_difference
from atgen_ray.reporting.examples import read_scores
from atgen_ray.reporting.formats import format_change, format_metric, format_number
from atgen_ray.reporting.headline import choose_metric
from atgen_ray.reporting.run_view import Estimate, Rivalry, RivalView, read_estimates
from atgen_ray.store.layout import (
    AUDIT_SAMPLE,
    RIVAL_FACTS,
    RIVAL_ROWS,
    rivals_folder,
    round_folder,
)
from atgen_ray.store.run_folder import RunFolder

CONFIDENCE = 0.95
FEWEST = 10  # examples; an interval of fewer claims nothing
SPLITS = {"test": "metrics", "audit": "audit_metrics", "dev": "dev_metrics"}
Row = dict[str, Any]


@dataclass(frozen=True)
class _Answered:
    """A rival with the rows of its predictions."""

    view: RivalView
    rows: Sequence[Row]


def compare_rivals(folder: RunFolder, rounds: Sequence[Row], metric: str | None) -> Rivalry | None:
    """Return the rivals of the model after the last round, and what is to be said of them; None
    before any tuned model, or without a rival.

    Args:
        rounds: rows of metrics.json.
        metric: of the headline; None, or one that the split lacks: the first that it has.
    """
    tuned = max((row for row in rounds if row["round"]), key=lambda row: row["round"], default=None)
    split = next((name for name, key in SPLITS.items() if tuned and tuned.get(key)), None)
    if tuned is None or split is None:
        return None
    scores = read_estimates(tuned[SPLITS[split]])
    if metric not in scores:
        metric = next(iter(scores))
    rows = _read_rows(folder, f"{round_folder(tuned['round'])}/predictions.jsonl", split)
    sample = None
    if split == "audit" and folder.exists(AUDIT_SAMPLE):
        sample = AuditSample.from_table(folder.read_table(AUDIT_SAMPLE))
    answered = [*_find_rivals(folder, rounds, tuned["round"], split)]
    rivals = [
        replace(each.view, difference=_compare(each.rows, rows, metric, sample))
        for each in answered
    ]
    if not rivals:
        return None
    finding, said = judge_tuning(tuned["labels"], scores[metric], rivals, metric)
    return Rivalry(metric, split, rivals, finding, said)


def describe_rivalry(folder: RunFolder, rounds: Sequence[Row], config: Mapping[str, Any]) -> Row:
    """Return `compare_rivals` as plain data, as rivals.json has it: what is not finite is null;
    empty where there is nothing.
    """
    # Without a test set the headline is of the audit, or else of the dev split.
    last = rounds[-1] if rounds else {}
    names: Row = next((last[key] for key in SPLITS.values() if last.get(key)), {})
    rivalry = compare_rivals(folder, rounds, choose_metric([*names], config))
    if rivalry is None:
        return {}
    rivals = []
    for each in rivalry.rivals:
        metrics = {name: _plain(value) for name, value in each.metrics.items()}
        difference = None if each.difference is None else _plain(each.difference)
        rivals.append(asdict(each) | {"metrics": metrics, "difference": difference})
    return asdict(rivalry) | {"rivals": rivals}


def _plain(estimate: Estimate) -> Row:
    return {
        name: value if math.isfinite(value) else None for name, value in asdict(estimate).items()
    }


def judge_tuning(
    labels: int, tuned: Estimate, rivals: Sequence[RivalView], metric: str
) -> tuple[str, str]:
    """Return whether tuning was worth it ("worth it", "not worth it" or "not shown"; "" where
    nothing can be said), and a sentence on it.

    It is worth it, or not, where the whole 95 % interval of the difference to the best rival, by
    example, is on one side; the best rival is the one of the best score.
    """
    better = METRICS[metric].better if metric in METRICS else "higher"
    known = [each for each in rivals if metric in each.metrics and each.metrics[metric].known]
    if better == "neither" or not known or not tuned.known:
        return "", ""
    sign = -1.0 if better == "lower" else 1.0
    best = max(known, key=lambda each: sign * each.metrics[metric].mean)
    finding = _decide(best.difference, sign)
    verdict = "not shown to be worth it" if finding == "not shown" else finding
    said = (
        f"Fine-tuning with {labels} labels scores {format_number(tuned.mean, 2)} "
        f"({format_number(tuned.low, 2)} to {format_number(tuned.high, 2)}) by "
        f"{format_metric(metric)}; the best rival, {best.name}, "
        f"{format_number(best.metrics[metric].mean, 2)}: {verdict}."
    )
    return finding, f"{said} {_explain(best.difference)}".rstrip()


def _decide(difference: Estimate | None, sign: float) -> str:
    if difference is None or difference.count < FEWEST or not math.isfinite(difference.low):
        return "not shown"
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "worth it" if low > 0 else "not worth it" if high < 0 else "not shown"


def _explain(difference: Estimate | None) -> str:
    if difference is None:
        return "Both have no example in common."
    if difference.count < FEWEST:
        return f"{difference.count} examples are too few to tell."
    return (
        f"On the same {difference.count} examples the difference is "
        f"{format_change(difference.mean)} (95 % interval {format_change(difference.low)} to "
        f"{format_change(difference.high)})."
    )


def _compare(
    rival: Sequence[Row], tuned: Sequence[Row], metric: str, sample: AuditSample | None
) -> Estimate | None:
    """Return the score of the tuned model less that of the rival, on the examples of both."""
    if sample is None:
        first, second = (read_scores([*rows]).get(metric, {}) for rows in (rival, tuned))
        return bootstrap_difference(first, second)
    found = compare_audited(sample, rival, tuned, metric, CONFIDENCE)
    return None if found is None else Estimate(found.mean, found.low, found.high, found.count)


def _find_rivals(
    folder: RunFolder, rounds: Sequence[Row], last: int, split: str
) -> Iterator[_Answered]:
    """Yield what the model was before tuning, and the newest of each rival."""
    for row in rounds:
        at = round_folder(row["round"])
        if not row["round"] and row.get(SPLITS[split]):
            rows = _read_rows(folder, f"{at}/predictions.jsonl", split)
            yield _Answered(RivalView("zero-shot", read_estimates(row[SPLITS[split]])), rows)
        if row.get("few_shot_metrics") and split == "test":
            rows = _read_rows(folder, f"{at}/few_shot.jsonl", split)
            name = f"few-shot of round {row['round']}"
            yield _Answered(RivalView(name, read_estimates(row["few_shot_metrics"])), rows)
    newest: dict[str, str] = {}
    for number in range(1, last + 1):
        for path in folder.list(rivals_folder(number)):
            if folder.exists(f"{path}/{RIVAL_FACTS}"):
                newest[path.rpartition("/")[2]] = path
    for path in newest.values():
        facts = folder.read_json(f"{path}/{RIVAL_FACTS}")
        if facts["split"] == split:
            yield _Answered(_describe(facts), _read_rows(folder, f"{path}/{RIVAL_ROWS}", split))


def _describe(facts: Mapping[str, Any]) -> RivalView:
    notes = []
    if "shown" in facts:
        notes.append(f"{facts['shown']:g} labels shown on average")
    if facts.get("instruction"):
        notes.append(f"instruction: {facts['instruction']}")
    elif "tried" in facts:
        notes.append(f"none of {len(facts['tried']) - 1} instructions beat the prompt as it is")
    if facts.get("unusable"):
        notes.append(f"{facts['unusable']} answers unusable")
    notes += [f"no {format_metric(name)}: {why}" for name, why in facts["absent"].items()]
    return RivalView(
        facts["title"],
        read_estimates(facts["metrics"]),
        facts.get("dollars_per_thousand") or 0.0,
        tuple(notes),
    )


def _read_rows(folder: RunFolder, path: str, split: str) -> list[Row]:
    rows = folder.read_jsonl(path) if folder.exists(path) else []
    return [row for row in rows if row["split"] == split]
