"""Steps that score answers of the model."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.annotation.judge import build_judges
from atgen_ray.config import Shot
from atgen_ray.core.records import FEATURES_SCHEMA, Progress
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import Engine
from atgen_ray.engines.likelihood import list_references, read_nats
from atgen_ray.evaluation import METRICS, Resources, choose_metrics, evaluate_splits
from atgen_ray.evaluation.audit import score_audit
from atgen_ray.models.few_shot import show_solved
from atgen_ray.reporting.rivals import describe_rivalry
from atgen_ray.runs.audit import read_sample
from atgen_ray.runs.metrics_table import collect_rows
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.steps.labels import LabelSteps
from atgen_ray.runs.tracking.tracking import Tracking
from atgen_ray.store.layout import RIVALS, round_folder
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.text.conversation import show_example


@dataclass(frozen=True)
class Answers:
    """What a model answered: predictions by id, minus the mean log-probability of each reference,
    and the outputs (FEATURES_SCHEMA), which say what it could not answer.
    """

    predictions: Mapping[str, str]
    nats: Mapping[str, Sequence[float]]
    outputs: pa.Table


class ScoreSteps:
    """Scores of adapters on the test set, the dev split and the audit."""

    def __init__(self, run: RunContext, labels: LabelSteps, tracking: Tracking) -> None:
        self._run = run
        self._labels = labels
        self._tracking = tracking

    def evaluate_adapter(self, round: int) -> None:
        """Score greedy answers on the test set (for the report) and the dev split (for
        stopping).
        """
        run = self._run
        path = f"{round_folder(round)}/metrics.json"

        def make(progress: Progress, out: RunFolder) -> None:
            references = run.state.test_references
            dev = run.state.dev(round)
            measured = {label.id: [label.text] for label in run.state.audit_labels()}
            splits = dict.fromkeys(references, "test") | dict.fromkeys(dev, "dev")
            splits |= dict.fromkeys(measured, "audit")
            # The labels of the dev split are its references.
            references = references | {
                label.id: [label.text] for label in run.state.labels(round) if label.id in dev
            }
            references |= measured
            rows: list[dict[str, Any]] = []
            metrics: dict[str, Any] = {}
            if splits:
                rows, metrics = self.score(round, splits, references, progress)
            if measured:
                audited = [row for row in rows if row["split"] == "audit"]
                confidence = run.config.evaluation.confidence
                metrics["audit"] = score_audit(read_sample(run.folder), audited, confidence)
                metrics["audit_labels"] = len(audited)
            out.write_jsonl(f"{round_folder(round)}/predictions.jsonl", rows)
            out.write_json(path, metrics)

        run.committer.commit(
            round, "evaluation", path, make, f"{round_folder(round)}/predictions.parts"
        )
        rows = collect_rows(run.config.name, run.journal, run.folder)
        run.lease.renew()
        run.folder.write_json("metrics.json", rows)
        self.write_rivalry(rows)
        self._tracking.log(rows)

    def write_rivalry(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write how the tuned model stands beside its rivals; `rows` are those of metrics.json."""
        run = self._run
        found = describe_rivalry(run.folder, rows, run.config.model_dump(mode="json"))
        if found:
            run.folder.write_json(RIVALS, found)

    def evaluate_few_shot(self, round: int) -> None:
        """Evaluate the untuned model with labels up to `round` as solved examples in its prompt:
        the baseline of tuning.
        """
        run = self._run
        path = f"{round_folder(round)}/few_shot.json"

        def make(progress: Progress, out: RunFolder) -> None:
            config = run.config
            references = run.state.test_references
            labels = run.state.labels(round)[: config.evaluation.few_shot]
            texts = run.state.texts(label.id for label in labels)
            solved = [Shot(input=texts[label.id], output=label.text) for label in labels]
            model, prompt = show_solved(config.model, config.prompt, solved)
            splits = dict.fromkeys(references, "test")
            rows: list[dict[str, Any]] = []
            metrics: dict[str, Any] = {}
            if splits:
                # Its prompts are longer than those of the run's engine. Two engines need not fit.
                run.model.engine.close()
                build = run.workers.build_engine
                with closing(build(model, prompt, config.engine, run.folder)) as engine:
                    rows, metrics = self.score(round, splits, references, progress, engine)
            out.write_jsonl(f"{round_folder(round)}/few_shot.jsonl", rows)
            out.write_json(path, metrics)

        run.committer.commit(round, "few_shot", path, make, f"{round_folder(round)}/few_shot.parts")

    def score(
        self,
        round: int,
        splits: Mapping[str, str],
        references: Mapping[str, list[str]],
        progress: Progress,
        untuned: Engine | None = None,
        name: str = "predictions",
        other: Stored | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return a row for each prediction, and the metrics of each split; `untuned` replaces the
        engine with the adapter, and `other` the adapter. Partial work is kept under `name`.
        """
        run = self._run
        name = "few_shot" if untuned else name
        metrics = self.choose_metrics(references)

        def answer(rows: pa.Table, section: int) -> pa.Table:
            return run.model.answer(
                round, round, rows, name, progress, untuned=untuned, section=section, other=other
            )

        texts = run.state.texts(sorted(splits))
        answers = self.answer(texts, references, metrics, answer, untuned)
        run.committer.record_failures(round, "evaluation", answers.outputs)
        return self.grade(
            round, splits, answers.predictions, references, metrics, progress, answers.nats
        )

    def choose_metrics(self, references: Mapping[str, list[str]]) -> list[str]:
        """Return the metrics by which answers with these references are scored."""
        config = self._run.config
        named = [text for texts in references.values() for text in texts]
        return choose_metrics(config.evaluation.metrics, config.stopping.steering, named)

    def answer(
        self,
        texts: Mapping[str, str],
        references: Mapping[str, list[str]],
        metrics: Sequence[str],
        answer: Callable[[pa.Table, int], pa.Table],
        engine: Engine | None = None,
    ) -> Answers:
        """Return what a model answers to `texts`, by id, and what `metrics` need of it besides.

        Args:
            answer: returns the outputs for a table of examples, which is the section of that
                number.
            engine: that answers, if it is not the run's.
        """
        ids = sorted(texts)
        examples = pa.table({"id": ids, "text": [texts[id_] for id_ in ids]})
        answers = Answers(dict.fromkeys(ids, ""), {}, FEATURES_SCHEMA.empty_table())
        generates = not all(METRICS[metric].likelihood for metric in metrics)
        if generates:
            features = answer(examples, 0)
            # An example that the engine could not answer counts as an empty answer; it is a dead
            # letter too.
            given = pc.fill_null(features["text"], "").to_pylist()
            predictions = dict(zip(features["id"].to_pylist(), given, strict=True))
            answers = replace(answers, predictions=predictions, outputs=features)
        if any(METRICS[metric].likelihood for metric in metrics):
            asked = {id_: references[id_] for id_ in ids}
            rows = list_references(
                {id_: texts[id_] for id_ in ids}, asked, engine or self._run.model.engine
            )
            answers = replace(answers, nats=read_nats(answer(rows, int(generates))))
        return answers

    def grade(
        self,
        round: int,
        splits: Mapping[str, str],
        predictions: Mapping[str, str],
        references: Mapping[str, list[str]],
        metrics: Sequence[str],
        progress: Progress,
        nats: Mapping[str, Sequence[float]] | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return a row for each prediction, and the metrics of each split."""
        run = self._run
        evaluation = run.config.evaluation
        texts = run.state.texts(sorted(splits))
        result = evaluate_splits(
            splits,
            predictions,
            references,
            metrics,
            evaluation.bootstrap_samples,
            evaluation.confidence,
            run.config.seed,
            sources={id_: show_example(text) for id_, text in texts.items()},
            resources=Resources(
                evaluation.models, build_judges(self._labels.open_context(round, progress))
            ),
            scorer=run.workers.score,
            nats=nats,
        )
        progress(len(splits), len(splits))
        return result
