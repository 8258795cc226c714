"""Learning curve as data: one row a round, the content of metrics.json."""

from collections import defaultdict
from typing import Any

from atgen_ray.runs.rivals.files import read_rival_dollars
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.ledger import read_inherited, read_spending
from atgen_ray.store.run_folder import RunFolder


def collect_rows(run: str, journal: Journal, folder: RunFolder) -> list[dict[str, Any]]:
    """Return a row for every evaluated round.

    Each has `round`, `labels` and `dollars` so far, `seconds` of its steps, `metrics` on the test
    set and `dev_metrics` on the dev split (null without one), every metric with its mean, interval
    and count. With evaluation.audit it has `audit_metrics`, the scores on the pool as estimated,
    with their standard `error`, and `audit_labels`, how many of the labels measure. A run that took
    over labels also has `inherited_dollars`, which the other run paid for them.
    Dollars of rivals bought no label and are in no row.
    With evaluation.few_shot the first round also has `few_shot_metrics` of the untuned model.
    """
    steps = journal.steps(run)
    seconds: dict[int, dict[str, float]] = defaultdict(dict)
    for event in steps:
        seconds[event.round or 0][str(event.step)] = round(event.seconds or 0.0, 3)
    counts = journal.count_labels(run)
    spending = read_spending(journal, run)
    inherited = read_inherited(journal, run)
    if 0 in spending:
        spending[0] = max(0.0, spending[0] - read_rival_dollars(run, journal, folder))
    rows = []
    for at in sorted(event.round or 0 for event in steps if event.step == "evaluation"):
        metrics = folder.read_json(f"{round_folder(at)}/metrics.json")
        spent = sum(dollars for spent_at, dollars in spending.items() if spent_at <= at)
        row = {
            "round": at,
            "labels": sum(count for bought_at, count in counts.items() if bought_at <= at),
            "dollars": round(spent, 6),
            "seconds": seconds[at],
            "metrics": metrics.get("test", {}),
            "dev_metrics": metrics.get("dev"),
        }
        if "audit" in metrics:
            row["audit_metrics"] = metrics["audit"]
            row["audit_labels"] = metrics["audit_labels"]
        if inherited:
            others = sum(dollars for paid_at, dollars in inherited.items() if paid_at <= at)
            row["inherited_dollars"] = round(others, 6)
        if folder.exists(few_shot := f"{round_folder(at)}/few_shot.json"):
            row["few_shot_metrics"] = folder.read_json(few_shot).get("test", {})
        rows.append(row)
    return rows
