"""The report of a run without a test set, whose scores are those of an audit."""

from pathlib import Path

import numpy as np
from helpers.report_page import Page
from helpers.report_runs import MadeUp, write_run

from atgen_ray.evaluation.audit import AuditSample
from atgen_ray.reporting.collect import collect_run
from atgen_ray.reporting.page import render_page
from atgen_ray.store.layout import AUDIT_SAMPLE


def test_the_curve_is_the_audited_score_and_says_so(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "audited", MadeUp())
    folder.remove("test.parquet")
    rows = folder.read_json("metrics.json")
    for row in rows:
        row["audit_metrics"], row["metrics"], row["audit_labels"] = row["metrics"], {}, 12
        path = f"rounds/{row['round']:03d}/predictions.jsonl"
        answers = [each | {"split": "audit"} for each in folder.read_jsonl(path)]
        folder.write_jsonl(path, answers)
    folder.write_json("metrics.json", rows)
    ids = [each["id"] for each in answers]
    one = np.ones(len(ids), np.int64)
    folder.write_table(AUDIT_SAMPLE, AuditSample(ids, one, one, 60 * one).to_table())
    view = collect_run(folder)
    assert view.audit_alone
    assert view.curve("rougeL")[-1][1].mean == rows[-1]["audit_metrics"]["rougeL"]["mean"]
    assert view.audit_gain is not None
    assert view.audit_gain.low <= view.audit_gain.mean <= view.audit_gain.high
    text = Page(render_page([view])).text()
    assert "estimated from 12 labels that were never trained on" in text
    assert "No test split was given" not in text
