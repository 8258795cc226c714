"""Collection of everything that a report shows from a run's folder.

The run may be in progress, and another version may have written it: what is missing leaves its part
of the view empty.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from atgen_ray.config.selection import name_strategy
from atgen_ray.core.records import DeadLetter
from atgen_ray.embedding import load_embeddings
from atgen_ray.embedding.pool import FOLDER as EMBEDDINGS
from atgen_ray.embedding.pool import TARGET, scan_whitened
from atgen_ray.evaluation.audit import AuditSample, compare_audited
from atgen_ray.reporting.diagnostics import (
    PoolMap,
    Prefix,
    Query,
    RoundDiagnostics,
    diagnose_rounds,
)
from atgen_ray.reporting.examples import build_examples, read_scores
from atgen_ray.reporting.headline import choose_metric
from atgen_ray.reporting.rivals import compare_rivals
from atgen_ray.reporting.run_view import (
    Estimate,
    Pick,
    PlanView,
    RoundView,
    RunView,
    TrainingView,
    read_estimates,
)
from atgen_ray.reporting.target_coverage import TargetCoverage, measure_coverage
from atgen_ray.selection import read_bound
from atgen_ray.store.layout import ATTEMPTS, AUDIT_SAMPLE, round_folder
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.text.conversation import show_example

PICKS = 10  # of a round, with their texts
GAIN_CONFIDENCE = 0.95
ROUND_FILES = ("selection.parquet", "annotations.jsonl", "training.json", "predictions.jsonl")
Row = dict[str, Any]


def collect_run(
    folder: RunFolder,
    dead_letters: Sequence[DeadLetter] = (),
    stopped: str | None = None,
    actual: Mapping[str, float] | None = None,
    selection: bool = True,
    stale: Mapping[int, int] | None = None,
    deleted: Collection[str] = (),
) -> RunView:
    """Return everything a report needs of the run in `folder`.

    The run may be in progress: a file that is not there yet leaves its part empty.

    Args:
        stopped: why the run ended; None for one that goes on.
        actual: what the journal knows of the numbers in plan.json, under their names there; its
            labels and dollars are those of the run.
        selection: False leaves the pool unread, and says nothing of what was picked and why.
        stale: by round, how many of the labels that it trained on have changed since.
        deleted: ids of examples that are not shown, as they were deleted on request.
    """
    config_text = folder.read_text("config.yaml") if folder.exists("config.yaml") else ""
    config = yaml.safe_load(config_text) or {}
    rows = {row["round"]: row for row in _read_json(folder, "metrics.json", [])}
    numbers = _find_rounds(folder, rows)
    # Of each round its ids stay, and the few rows that are shown.
    selections = {number: _read_selection(folder, number, deleted, selection) for number in numbers}
    annotated = {
        number: _read_annotations(folder, number, selections[number], selection)
        for number in numbers
    }
    # The pool may be large: it is gone through in parts, and only if selections are shown.
    pool_map, diagnostics = (
        _diagnose(folder, selections, annotated, config)
        if selection and folder.exists("pool.parquet")
        else (None, {})
    )
    coverage = _measure_target(folder, selections) if diagnostics else {}
    test = (
        folder.read_table("test.parquet", ["id", "text"]) if folder.exists("test.parquet") else None
    )
    views = []
    for number in numbers:
        shown = selections[number].shown
        picks = _build_picks(folder, number, shown, annotated[number].shown)
        views.append(
            _build_round(
                folder,
                number,
                rows.get(number),
                picks,
                len(selections[number].ids),
                config,
                diagnostics,
                (stale or {}).get(number, 0),
                coverage.get(number),
            )
        )
    metric = choose_metric([name for view in views for name in view.metrics], config)
    first, last = _read_ends(folder, [view for view in views if view.metrics], "test")
    scored = {row["id"] for part in (first, last) if part for row in part[1]}
    return RunView(
        name=folder.name,
        stopped=stopped,
        rounds=views,
        metric=metric,
        pool_size=_count_rows(folder, "pool.parquet"),
        test_size=None if test is None else len(test),
        pool_map=pool_map,
        examples=build_examples(first, last, _read_texts(test, scored), metric),
        first_scores=read_scores(first[1]) if first else {},
        last_scores=read_scores(last[1]) if last else {},
        config=config,
        config_text=config_text,
        versions={str(key): str(value) for key, value in _read_versions(folder).items()},
        dead_letters=[*dead_letters],
        dead_letter_count=len(dead_letters),
        audit_labels=max((row.get("audit_labels") or 0 for row in rows.values()), default=0),
        audit_gain=_read_audit_gain(folder, [view for view in views if view.audited], metric),
        plan=_compare_plan(_read_json(folder, "plan.json", {}), actual or {}),
        bought=None if actual is None or "labels" not in actual else int(actual["labels"]),
        paid=None if actual is None else actual.get("dollars"),
        rivalry=compare_rivals(folder, [*rows.values()], metric),
    )


def _compare_plan(plan: Row, actual: Mapping[str, float]) -> list[PlanView]:
    """Return each planned number with its actual value, where there are both."""
    return [
        PlanView(name.replace("_", " "), plan[name], value)
        for name, value in actual.items()
        if name in plan
    ]


def _describe_label(row: Row) -> str:
    """Return one line that says who gave a label, with which prompt, at what cost and when."""
    more = row.get("provenance") or {}
    parts = [str(row.get("annotator") or "")]
    if more.get("model") and more["model"] not in parts[0]:
        parts.append(str(more["model"]))
    if "prompt_hash" in more:
        parts += [
            f"prompt {more['prompt_hash'][:8]}",
            f"{more['prompt_tokens']} + {more['output_tokens']} tokens",
        ]
    if more.get("confidence") is not None:
        parts.append(f"confidence {more['confidence']:.2f}")
    if row.get("dollars"):
        parts.append(f"${row['dollars']:.6f}".rstrip("0").rstrip("."))
    if "when" in more:
        parts.append(datetime.fromtimestamp(more["when"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
    if "first" in more:
        parts.append(f"after {more['first']['annotator']}: {more['first']['reason']}")
    return ", ".join(filter(None, parts))


def _count_rows(folder: RunFolder, path: str) -> int | None:
    return folder.count_rows(path) if folder.exists(path) else None


def _in_round(number: int, file: str) -> str:
    return f"{round_folder(number)}/{file}"


def _read_json(folder: RunFolder, path: str, missing: Any) -> Any:
    return folder.read_json(path) if folder.exists(path) else missing


def _read_versions(folder: RunFolder) -> Row:
    """Return the versions of packages in the last attempt."""
    return {
        key: value
        for key, value in _read_json(folder, "versions.json", {}).items()
        if key != ATTEMPTS
    }


def _read_jsonl(folder: RunFolder, path: str) -> list[Row]:
    return folder.read_jsonl(path) if folder.exists(path) else []


def _find_rounds(folder: RunFolder, rows: dict[int, Row]) -> list[int]:
    """Return the rounds with a row in metrics.json, and those under way."""
    begun = {
        int(name) for path in folder.list("rounds") if (name := path.rpartition("/")[2]).isdigit()
    }
    begun = {
        number
        for number in begun
        if any(folder.exists(_in_round(number, file)) for file in ROUND_FILES)
    }
    return sorted(begun | rows.keys())


@dataclass(frozen=True)
class _Selection:
    """Picks of a round by rank: the ids of all, and the rows that are shown."""

    ids: list[str]
    shown: list[Row]


@dataclass(frozen=True)
class _Annotated:
    """Labels of a round: the ids of all, and the rows of those that are shown, by id."""

    ids: list[str]
    shown: dict[str, Row]


def _read_selection(
    folder: RunFolder, number: int, deleted: Collection[str], wanted: bool
) -> _Selection:
    path = _in_round(number, "selection.parquet")
    if not wanted or not folder.exists(path):
        return _Selection([], [])
    table = folder.read_table(path).sort_by("rank")
    gone = pc.is_in(table["id"], pa.array(sorted(deleted), pa.string()))
    shown = table.filter(pc.invert(gone)).slice(0, PICKS)
    return _Selection(table["id"].to_pylist(), shown.to_pylist())


def _read_annotations(
    folder: RunFolder, number: int, selection: _Selection, wanted: bool
) -> _Annotated:
    if not wanted:
        return _Annotated([], {})
    rows = _read_jsonl(folder, _in_round(number, "annotations.jsonl"))
    shown = {row["id"] for row in selection.shown}
    found = {row["id"]: row for row in rows if row["id"] in shown}
    return _Annotated([row["id"] for row in rows], found)


def _read_bound(folder: RunFolder, number: int) -> str | None:
    bound = read_bound(folder.read_table(_in_round(number, "selection.parquet"), ["id"]))
    return None if bound is None else str(bound)


def _diagnose(
    folder: RunFolder,
    selections: dict[int, _Selection],
    annotated: dict[int, _Annotated],
    config: Row,
) -> tuple[PoolMap | None, dict[int, RoundDiagnostics]]:
    queries = []
    labeled: list[str] = []
    for number, selection in selections.items():
        if selection.ids:
            # A round is compared with what was labelled before it.
            queries.append(Query(number, selection.ids, Prefix(labeled, len(labeled))))
        labeled += annotated[number].ids
    action = ((config.get("data") or {}).get("duplicates") or {}).get("action", "exclude")

    def scan(*columns: str) -> Iterator[pa.Table]:
        return folder.scan_table("pool.parquet", columns)

    return diagnose_rounds(scan, queries, scan_whitened(folder), action == "exclude")


def _measure_target(
    folder: RunFolder, selections: dict[int, _Selection]
) -> dict[int, TargetCoverage]:
    """Return how much of the target the picks cover after each round; nothing without a target."""
    if not folder.exists(TARGET) or not folder.list(EMBEDDINGS):
        return {}
    target = folder.read_table(TARGET, ["content"])["content"].to_pylist()
    picks = {number: selection.ids for number, selection in selections.items()}

    def scan(*columns: str) -> Iterator[pa.Table]:
        return folder.scan_table("pool.parquet", columns)

    try:
        return measure_coverage(target, picks, scan, partial(load_embeddings, folder))
    except KeyError:  # the embedding is under way, or examples were deleted since
        return {}


def _read_texts(table: pa.Table | None, ids: set[str]) -> dict[str, str]:
    if table is None:
        return {}
    rows = table.filter(pc.is_in(table["id"], pa.array(sorted(ids), pa.string())))
    texts = map(show_example, rows["text"].to_pylist())
    return dict(zip(rows["id"].to_pylist(), texts, strict=True))


def _find_texts(folder: RunFolder, path: str, ids: set[str]) -> dict[str, str]:
    rows = folder.read_rows(path, ids, ["id", "text"]) if ids and folder.exists(path) else []
    return {row["id"]: show_example(row["text"] or "") for row in rows}


def _build_picks(
    folder: RunFolder, number: int, rows: list[Row], labels: dict[str, Row]
) -> list[Pick]:
    ids = {row["id"] for row in rows}
    path = _in_round(number, "features.parquet")
    texts = _find_texts(folder, "pool.parquet", ids)
    outputs = _find_texts(folder, path, ids)
    return [
        Pick(
            id=row["id"],
            rank=row["rank"],
            score=row["score"],
            parts=dict(row["parts"] or []),
            text=texts.get(row["id"], ""),
            output=outputs.get(row["id"]),
            label=str(labels[row["id"]]["text"]) if row["id"] in labels else None,
            provenance=_describe_label(labels.get(row["id"], {})),
        )
        for row in rows
    ]


def _build_round(
    folder: RunFolder,
    number: int,
    row: Row | None,
    picks: list[Pick],
    picked: int,
    config: Row,
    diagnostics: dict[int, RoundDiagnostics],
    stale: int,
    target: TargetCoverage | None,
) -> RoundView:
    row = row or {}
    training = _read_json(folder, _in_round(number, "training.json"), None)
    return RoundView(
        round=number,
        labels=row.get("labels"),
        dollars=_number(row.get("dollars")) if row else 0.0,
        seconds={step: _number(value) for step, value in (row.get("seconds") or {}).items()},
        metrics=read_estimates(row.get("metrics") or row.get("audit_metrics")),
        audited=read_estimates(row.get("audit_metrics")),
        dev_metrics=read_estimates(row.get("dev_metrics")),
        strategy=name_strategy(config, number) or "unknown",
        picked=picked,
        picks=picks,
        training=training and _read_training(training),
        diagnostics=diagnostics.get(number),
        target=target,
        stale=stale,
        bound=_read_bound(folder, number) if picked else None,
        few_shot=read_estimates(row.get("few_shot_metrics")),
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value == value else 0.0


def _read_training(row: Row) -> TrainingView:
    losses = [(step["step"], step["loss"]) for step in row["losses"] if step["loss"] is not None]
    return TrainingView(losses, row["examples"], row["tokens"], row["steps"])


def _read_audit_gain(
    folder: RunFolder, views: list[RoundView], metric: str | None
) -> Estimate | None:
    """Return by how much the audited score of the last round is above that of the first."""
    first, last = _read_ends(folder, views, "audit")
    if metric is None or first is None or last is None or not folder.exists(AUDIT_SAMPLE):
        return None
    sample = AuditSample.from_table(folder.read_table(AUDIT_SAMPLE))
    found = compare_audited(sample, first[1], last[1], metric, GAIN_CONFIDENCE)
    return None if found is None else Estimate(found.mean, found.low, found.high, found.count)


def _read_ends(
    folder: RunFolder, views: list[RoundView], split: str
) -> tuple[tuple[int, list[Row]] | None, ...]:
    """Return number and predictions of a split of the first and of the last evaluated round; a
    single round is the last.
    """
    numbers = [
        view.round for view in views if folder.exists(_in_round(view.round, "predictions.jsonl"))
    ]
    ends = [
        (
            number,
            [
                row
                for row in _read_jsonl(folder, _in_round(number, "predictions.jsonl"))
                if row["split"] == split
            ],
        )
        for number in numbers[:1] + numbers[1:][-1:]
    ]
    return (ends[0] if len(ends) == 2 else None), (ends[-1] if ends else None)
