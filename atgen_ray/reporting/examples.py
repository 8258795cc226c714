"""Test examples that a report shows: those of the largest gains, typical ones, and those of the
largest losses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Scores = dict[str, dict[str, float]]  # metric, then example id

SHOWN = 2  # of each kind


@dataclass(frozen=True)
class Output:
    """Output of the model for a test example after `round`; `score` is that of the headline metric,
    if there is one.
    """

    round: int
    text: str
    score: float | None


@dataclass(frozen=True)
class ExampleView:
    """One test example with the answers of the first and of the last evaluated round."""

    id: str
    kind: str
    text: str
    references: list[str]
    before: Output | None
    after: Output


def read_scores(rows: Iterable[dict[str, Any]]) -> Scores:
    """Return the scores in rows of predictions.jsonl; values that are no number are left out."""
    scores: Scores = {}
    for row in rows:
        for metric, value in (row.get("scores") or {}).items():
            if isinstance(value, int | float) and value == value:
                scores.setdefault(metric, {})[row["id"]] = float(value)
    return scores


def choose_ids(before: dict[str, float], after: dict[str, float]) -> list[tuple[str, str]]:
    """Return up to six ids with the kind of each, by the gain from `before` to `after`; ties break
    by id.

    Without `before` the score itself is compared. "Typical" is closest to the median gain.
    """
    gains = {
        id: score - before.get(id, 0.0) for id, score in after.items() if not before or id in before
    }
    if not gains:
        return []
    order = sorted(gains, key=lambda id: (-gains[id], id))
    median = gains[order[(len(order) - 1) // 2]]
    typical = sorted(gains, key=lambda id: (abs(gains[id] - median), id))
    best = "Best score" if not before else "Largest gain"
    worst = (
        "Worst score" if not before else "Largest loss" if gains[order[-1]] < 0 else "Smallest gain"
    )
    chosen: dict[str, str] = {}
    for kind, ids in ((best, order), (worst, order[::-1]), ("Typical", typical)):
        for id in [id for id in ids if id not in chosen][:SHOWN]:
            # An example that did not lose must not stand under "loss".
            chosen[id] = "Smallest gain" if kind == "Largest loss" and gains[id] >= 0 else kind
    kinds = list(dict.fromkeys((best, "Typical", *chosen.values())))
    return sorted(chosen.items(), key=lambda item: kinds.index(item[1]))


def build_examples(
    first: tuple[int, list[dict[str, Any]]] | None,
    last: tuple[int, list[dict[str, Any]]] | None,
    texts: dict[str, str],
    metric: str | None,
) -> list[ExampleView]:
    """Return the examples to show, from the rows of predictions.jsonl of the first and of the last
    evaluated round (number, rows).
    """
    if last is None:
        return []
    before = {row["id"]: row for row in first[1]} if first else {}
    after = {row["id"]: row for row in last[1]}
    scores_before = read_scores(before.values()).get(metric or "", {})
    scores_after = read_scores(after.values()).get(metric or "", {})
    chosen = choose_ids(scores_before, scores_after)
    if not chosen:  # no metric has a value: the page still shows what the model writes
        chosen = [(id, "Not scored") for id in sorted(after)[: 3 * SHOWN]]

    def output(
        part: tuple[int, list[dict[str, Any]]] | None,
        row: dict[str, Any] | None,
        score: float | None,
    ) -> Output | None:
        return Output(part[0], str(row["prediction"]), score) if part and row else None

    views = []
    for id, kind in chosen:
        shown = output(last, after[id], scores_after.get(id))
        assert shown is not None  # noqa: S101
        references = [str(reference) for reference in after[id].get("references") or []]
        views.append(
            ExampleView(
                id,
                kind,
                texts.get(id, ""),
                references,
                output(first, before.get(id), scores_before.get(id)),
                shown,
            )
        )
    return views
