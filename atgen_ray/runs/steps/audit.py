"""Steps that measure by labels of the pool, where there is no test set."""

from collections.abc import Sequence

from atgen_ray.core.records import Progress
from atgen_ray.evaluation.audit import AuditSample, describe_models
from atgen_ray.runs.audit import (
    build_frame,
    choose_planned,
    draw,
    draw_more,
    exclude_labelled,
    find_model,
    list_labelled,
    read_sample,
)
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.state import AUDIT, AUDIT_DRAW, AUDIT_LABELS, MEASUREMENT
from atgen_ray.runs.steps.labels import LabelSteps
from atgen_ray.runs.steps.scores import ScoreSteps
from atgen_ray.store.layout import (
    AUDIT_FIRST,
    AUDIT_FRAME,
    AUDIT_MODELS,
    AUDIT_SAMPLE,
    round_folder,
)
from atgen_ray.store.run_folder import RunFolder


class AuditSteps:
    """The audit of a run; see `atgen_ray/runs/audit.py`."""

    def __init__(self, run: RunContext, labels: LabelSteps, scores: ScoreSteps) -> None:
        self._run = run
        self._labels = labels
        self._scores = scores

    def draw(self) -> None:
        """Draw the examples to measure by, and have them labelled; see `atgen_ray/runs/audit.py`.

        Raises:
            UserError: the pool is too small, or a budget buys none of these labels.
            RunPaused: a model left too many of them without a label.
        """
        run = self._run
        audit = run.config.evaluation.audit
        if audit is None:
            return
        seed = run.config.seed

        def draw_first(_: Progress, out: RunFolder) -> None:
            candidates = run.state.candidates(run.state.inherited + 1)
            known = list_labelled(audit.models, run.journal)
            candidates = exclude_labelled(candidates, known)
            frame = build_frame(run.folder, audit, candidates, seed)
            out.write_table(AUDIT_FRAME, frame)
            out.write_table(AUDIT_FIRST, draw(frame, audit, seed).to_table())

        def draw_second(progress: Progress, out: RunFolder) -> None:
            first = AuditSample.from_table(run.folder.read_table(AUDIT_FIRST))
            self._labels.buy(0, first.ids, progress)
            frame = run.folder.read_table(AUDIT_FRAME)
            values = self._score_first(progress)
            sample = draw_more(run.folder, frame, audit, first, values, seed)
            out.write_table(AUDIT_SAMPLE, sample.to_table())

        def label(progress: Progress, _: RunFolder) -> None:
            self._labels.buy(0, read_sample(run.folder).ids, progress)

        run.committer.commit(0, AUDIT_DRAW, AUDIT_FIRST, draw_first)
        run.committer.commit(0, AUDIT, AUDIT_SAMPLE, draw_second, f"{round_folder(0)}/audit.parts")
        run.committer.commit(0, AUDIT_LABELS, None, label)

    def _score_first(self, progress: Progress) -> dict[str, float | None]:
        """Return the scores by which the audit is planned, of what it has labelled so far: those of
        the untuned model, or of the first one that is to be measured.
        """
        run = self._run
        references = {label.id: [label.text] for label in run.state.audit_labels()}
        if not references:
            return {}
        models = run.config.evaluation.audit.models if run.config.evaluation.audit else []
        adapter = find_model(models[0], run.config, run.journal) if models else None
        splits = dict.fromkeys(references, "audit")
        rows, metrics = self._scores.score(
            0, splits, references, progress, name="audit", other=adapter
        )
        planned = choose_planned(run.config, [*metrics["audit"]])
        return {row["id"]: row["scores"][planned] for row in rows}

    def measure(self, place: int, model: str) -> None:
        """Score one model by the labels of the audit."""
        run = self._run
        path = f"audit/{place:03d}/predictions.jsonl"

        def make(progress: Progress, out: RunFolder) -> None:
            references = {label.id: [label.text] for label in run.state.audit_labels()}
            adapter = find_model(model, run.config, run.journal)
            splits = dict.fromkeys(references, "audit")
            rows, _ = self._scores.score(
                place, splits, references, progress, name=MEASUREMENT, other=adapter
            )
            out.write_jsonl(path, rows)

        run.committer.commit(
            place, MEASUREMENT, path, make, f"{round_folder(place)}/{MEASUREMENT}.parts"
        )

    def write_measured(self, models: Sequence[str]) -> None:
        """Write the scores of the models, and by how much each differs from the first."""
        run = self._run
        sample = read_sample(run.folder)
        paths = [f"audit/{at:03d}/predictions.jsonl" for at in range(len(models))]
        rows = [run.folder.read_jsonl(path) for path in paths]
        confidence = run.config.evaluation.confidence
        run.lease.renew()
        run.folder.write_json(AUDIT_MODELS, describe_models(sample, models, rows, confidence))
