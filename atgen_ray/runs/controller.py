"""Round loop of one run: pool, embedding, generation, selection, annotation, training, evaluation.

Every step makes its outputs aside, records them in the journal under the lease, and then gives them
their names (`Controller._commit`). A recorded step is not repeated, and what the journal does not
name does not exist. Hence a run may die at any point, a new controller continues from the journal,
and one that has lost its lease changes nothing.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.disclosure import find_remote_warnings, find_stored, list_remote
from atgen_ray.annotation.judge import build_judges
from atgen_ray.annotation.registry import build_annotator, check_annotators
from atgen_ray.config import (
    HumanAnnotatorConfig,
    LLMAnnotatorConfig,
    OpenAIAnnotatorConfig,
    RunConfig,
    Shot,
    list_annotators,
)
from atgen_ray.core.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from atgen_ray.core.errors import BudgetSpent, RunPaused, UserError
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.machine import machine
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import (
    CONTEXT_SCHEMA,
    FEATURES_SCHEMA,
    GIVEN,
    GOLD_SCHEMA,
    POOL_SCHEMA,
    SAMPLES,
    TOMBSTONE,
    DeadLetter,
    Progress,
)
from atgen_ray.core.stored import Stored
from atgen_ray.data import overlap
from atgen_ray.data.chosen_ids import find_unknown_ids, read_ids
from atgen_ray.embedding import EmbeddingSpace
from atgen_ray.embedding.pool import FOLDER as EMBEDDINGS
from atgen_ray.embedding.pool import TARGET, WHITENING, list_contents, measure_whitening
from atgen_ray.engines.base import Engine
from atgen_ray.engines.choice import ENGINE
from atgen_ray.engines.generation import SECTION_ROWS
from atgen_ray.engines.hidden_states import STATE_SCHEMA, append_states
from atgen_ray.engines.likelihood import list_references, read_nats
from atgen_ray.evaluation import METRICS, Resources, choose_metrics, evaluate_splits
from atgen_ray.evaluation.audit import AuditSample, describe_models, score_audit
from atgen_ray.models.few_shot import show_solved
from atgen_ray.models.start_adapter import find_adapter, find_adapter_mistakes
from atgen_ray.runs.audit import (
    UNTUNED,
    build_frame,
    choose_planned,
    draw,
    draw_more,
    exclude_labelled,
    find_model,
    list_labelled,
    read_sample,
)
from atgen_ray.runs.estimate import PoolSummary, warn_of_overlap
from atgen_ray.runs.given_labels import LEAKED, read_given
from atgen_ray.runs.metrics_table import collect_rows
from atgen_ray.runs.provenance import list_versions, write_provenance
from atgen_ray.runs.round_model import RoundModel
from atgen_ray.runs.shared_cache import open_embedding_cache, share_embeddings
from atgen_ray.runs.state import (
    AUDIT,
    AUDIT_DRAW,
    AUDIT_LABELS,
    MEASUREMENT,
    RunState,
    check_pool_size,
)
from atgen_ray.runs.stopping import BUDGET, MEASURED, SELECTED, find_stop
from atgen_ray.runs.stored_selection import read_examples, read_vectors
from atgen_ray.runs.takeover import take_over
from atgen_ray.runs.tracking import Tracking
from atgen_ray.runs.workers import RAY_WORKERS, Workers
from atgen_ray.selection import read_bound
from atgen_ray.selection.strategy import MODEL
from atgen_ray.store.events import STEP, WARNING, Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.label_changes import LABEL_CHANGES, read_last_change
from atgen_ray.store.layout import (
    AUDIT_FIRST,
    AUDIT_FRAME,
    AUDIT_MODELS,
    AUDIT_SAMPLE,
    START,
    START_ADAPTER,
    round_folder,
)
from atgen_ray.store.leases import Lease
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import StepOutputs, describe_shared
from atgen_ray.training import TrainingExample
from atgen_ray.training.reweighting import sample_pool, weigh_examples

FEW_DEAD = 2  # one dead letter in a round lies in its row


class Controller:
    """Drives one run from the state in its journal to its end."""

    def __init__(
        self,
        config: RunConfig,
        journal: Journal,
        lease: Lease,
        folder: RunFolder,
        tracker: ProgressTracker,
        remote: Progress,
        workers: Workers = RAY_WORKERS,
    ) -> None:
        """`tracker` counts progress in this process, `remote` receives progress from training
        workers.
        """
        self._config = config
        self._journal = journal
        self._lease = lease
        self._folder = folder
        self._tracker = tracker
        self._remote = remote
        self._workers = workers
        self._state = RunState(config, journal, folder)
        self._committed = journal.committed_steps(config.name)
        self._outputs = StepOutputs(folder, lease)
        self._reused = 0.0  # seconds that shared rows of other runs saved in the step under way
        self._model = RoundModel(
            config, self._state, folder, self._add_reused_seconds, self._record_engine, workers
        )
        self._tracking = Tracking(config, journal, lease, folder)

    def run(self) -> str:
        """Run all rounds and return why the run ended.

        Raises:
            RunStopped: the tracker was asked to stop; committed steps are kept.
            UserError: the input has a mistake.
        """
        self.recover()
        self.write_provenance()
        check_annotators(self._config)
        self.disclose_models()
        with self._tracking:
            self.prepare_pool()
            self.prepare_target()
            self.copy_adapter()
            self.embed_pool()
            self.draw_audit()
            if self._config.evaluation.zero_shot:
                self.evaluate_adapter(0)
            round = self._state.inherited
            if round:
                self.learn(round)
            reason = self.find_stop(round)
            while reason is None:
                round += 1
                reason = self.run_round(round) or self.find_stop(round)
            self._require_labels(round, reason)
        return reason

    def close(self) -> None:
        """End what the run keeps between its steps."""
        self._model.engine.close()

    def run_round(self, round: int) -> str | None:
        """Run one round; return why the run ends in the middle of it, or None."""
        self.generate_features(round)
        self.select_batch(round)
        try:
            self.annotate_batch(round)
        except BudgetSpent:
            return BUDGET
        self.learn(round)
        return None

    def learn(self, round: int) -> None:
        """Train on all labels up to `round` and evaluate the adapter."""
        if round == max(1, self._state.inherited) and self._config.evaluation.few_shot:
            self.evaluate_few_shot(round)
        self.train_adapter(round)
        self.evaluate_adapter(round)

    def run_selection(self) -> str:
        """Select one query batch without labels and training (experimental design); otherwise like
        `run`.
        """
        self.recover()
        self.write_provenance()
        self.prepare_pool()
        self.prepare_target()
        self.copy_adapter()
        self.embed_pool()
        self.generate_features(1)
        self.select_batch(1)
        return SELECTED

    def recover(self) -> None:
        """Finish what an earlier controller committed and could not publish."""
        self._outputs.recover(self._committed.values())
        last = self._last_step()
        if last is not None and last.step == "annotation":
            self._write_labels(last.round or 0)

    def write_provenance(self) -> None:
        """Record the versions that this attempt uses; an event warns of libraries that changed
        since the last attempt.
        """
        epoch = self._lease.epoch
        now = machine().time()
        engine = self._model.engine.name
        # What counts is installed where workers run, not here.
        gpus = self._workers.count_gpus_of(self._config.engine)
        nodes = self._workers.survey(partial(list_versions, engine), gpus)
        warning = write_provenance(self._config, engine, self._folder, epoch, now, nodes)
        if warning:
            self._journal.append(self._lease, WARNING, payload={"warning": warning})

    def prepare_pool(self) -> None:
        """Read the pool and the test set; known answers go to a separate table, which selection
        never sees.
        """

        def make(progress: Progress, out: RunFolder) -> None:
            data = self._config.data
            prompt = self._config.prompt
            seed = self._config.seed if data.seed is None else data.seed
            # Whoever leads people looks for tasks by the columns of their rows; so may a strategy.
            keeps = any("fields" in self._config.list_needs(round) for round in (1, 2)) or any(
                isinstance(annotator, HumanAnnotatorConfig)
                for _, annotator in list_annotators(self._config.annotator)
            )
            # The audit may group examples by such a column, too.
            keeps |= bool((audit := self._config.evaluation.audit) and audit.column)
            pool = self._workers.open_split(data, prompt, "pool", seed, progress, fields=keeps)
            check_pool_size(self._config, pool.size)
            test = None
            if data.test is not None:
                test = self._workers.build_split(data, prompt, "test", seed, progress)
            given = read_given(
                data, test, partial(self._workers.build_split, data, prompt, "labeled", seed)
            )
            summary = PoolSummary(pool.size)
            all_leaked = list[str]()
            with out.table_writer("pool.parquet", POOL_SCHEMA) as add_examples:
                with ExitStack() as files:
                    writer = out.table_writer("gold.parquet", GOLD_SCHEMA)
                    add_gold = files.enter_context(writer)
                    if data.context or keeps:
                        writer = out.table_writer("context.parquet", CONTEXT_SCHEMA)
                        add_context = files.enter_context(writer)
                    for examples, gold, context in pool.read():
                        leaked = overlap(examples, test.examples) if test else []
                        all_leaked += leaked
                        summary.add(examples, [*leaked, *given.take(examples, leaked)])
                        add_examples(examples)
                        add_gold(gold)
                        if data.context or keeps:
                            add_context(context)
                    if given.rest.num_rows:
                        add_examples(given.rest)
                    summary.given = len(given.labels)
                    if test:
                        add_gold(test.gold)
                if test:
                    out.write_table("test.parquet", test.examples)
                dead = [*pool.dead, *(test.dead if test else ()), *given.dead]
                dead += [DeadLetter(id_, "pool", LEAKED) for id_ in all_leaked]
                self._journal.record_dead_letters(self._lease, None, dead)
                self._journal.record_annotations(self._lease, 0, given.labels)
                test_rows = len(test.examples) if test else 0
                plan = self._workers.estimate_run(self._config, summary, test_rows, self._journal)
                out.write_json("plan.json", plan)

        if self._state.inherited:
            self.take_over()
        self._commit(0, "pool", "pool.parquet", make)
        self._check_overlap()
        self._check_chosen()

    def take_over(self) -> None:
        """Copy pool, labels and ledger of another run, once."""
        if (0, "pool") not in self._committed:
            self._tracker.start_step(0, "takeover")
            take_over(self._config, self._journal, self._lease, self._folder)
            self._committed = self._journal.committed_steps(self._config.name)

    def prepare_target(self) -> None:
        """Read the prompts of the use in mind. A run that takes over another may have a new one."""

        def make(progress: Progress, out: RunFolder) -> None:
            data = self._config.data
            prompt = self._config.prompt
            target = self._workers.build_split(data, prompt, "target", self._config.seed, progress)
            self._journal.record_dead_letters(self._lease, None, target.dead)
            out.write_table(TARGET, target.examples)

        if self._config.data.target is not None:
            self._commit(0, "target", TARGET, make)

    def copy_adapter(self) -> None:
        """Copy model.adapter into the run, whose workers find it there like an adapter of its own.

        Raises:
            UserError: there is no such adapter, or training does not go on from it.
        """
        named = self._config.model.adapter

        def make(_: Progress, out: RunFolder) -> dict[str, Any]:
            said = f"model.adapter is '{named}'"
            source = find_adapter(str(named), said, self._config, self._journal).local()
            for line in find_adapter_mistakes(source, said, self._config):
                raise UserError(line)
            with out.publish(START_ADAPTER) as output:
                for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                    shutil.copyfile(source / name, output / name)
            return {"source": named}

        if named is not None:
            self._commit(0, START, START_ADAPTER, make)

    def embed_pool(self) -> None:
        """Embed pool and target if a strategy, the weighting of labels or the report uses
        embeddings. Whitening is measured once, on the whole pool.
        """
        if not self._config.embeds:
            return
        space = EmbeddingSpace.of(self._config)
        whiten = self._config.embedding.whitening
        folder = self._folder
        embed = self._workers.embed_pool

        def make(progress: Progress, _: RunFolder) -> dict[str, Any]:
            # The vectors are written by the part, under names that nobody has used, and equal
            # texts have equal vectors: so they need not be made aside.
            if self._config.cache is None:
                embed(folder, space, progress)
                return describe_shared(folder, EMBEDDINGS)
            cache = open_embedding_cache(self._config.cache, space)
            contents = list_contents(folder)
            self._add_reused_seconds(
                share_embeddings(cache, contents, folder, lambda: embed(folder, space, progress))
            )
            return describe_shared(folder, EMBEDDINGS)

        def measure(progress: Progress, out: RunFolder) -> None:
            out.write_table(WHITENING, measure_whitening(folder, whiten, progress))

        self._commit(0, "embedding", None, make)
        if whiten != "off":
            self._commit(0, "whitening", WHITENING, measure)

    def generate_features(self, round: int) -> None:
        """Run the current model over the candidates if the strategy uses its outputs or hidden
        states.
        """
        needs = self._state.needs(round)
        path = f"{round_folder(round)}/features.parquet"
        schema = FEATURES_SCHEMA
        if "states" in needs:
            schema = schema.append(STATE_SCHEMA.field("state"))

        def make(progress: Progress, out: RunFolder) -> None:
            ids = self._state.shortlist(round).sort()
            outputs = 1 + (SAMPLES if "samples" in needs else 0)
            size = SECTION_ROWS // outputs
            with out.table_writer(path, schema) as add:
                for section, first in enumerate(range(0, max(1, len(ids)), size)):
                    here = ids.slice(first, size)
                    after = len(ids) - first - len(here)
                    counted = _count_others(progress, first * outputs, after * outputs)
                    add(self._generate(round, section, here, outputs - 1, counted))

        if needs & MODEL:
            parts = f"{round_folder(round)}/features.parts"
            self._commit(round, "generation", path, make, parts)

    def _generate(
        self, round: int, section: int, ids: pa.StringArray, samples: int, progress: Progress
    ) -> pa.Table:
        """Return the features of the candidates `ids`, sorted: a section of the generation pass."""
        examples = read_examples(self._folder, ids, "id", "text")
        features = self._model.answer(
            round, round - 1, examples, "features", progress, samples, section=section
        )
        if "states" in self._state.needs(round):
            # They need a pass of their own, whatever the engine.
            config = self._config
            adapter = self._state.adapter(round - 1)
            features = append_states(
                features, examples, config.model, config.prompt, config.engine, adapter, progress
            )
        self._record_failures(round, "generation", features)
        return features

    def select_batch(self, round: int) -> None:
        """Select the query batch."""
        strategy, parameters, _ = self._state.strategy(round)
        path = f"{round_folder(round)}/selection.parquet"

        def make(progress: Progress, out: RunFolder) -> dict[str, Any]:
            features = f"{round_folder(round)}/features.parquet"
            if self._config.selection.is_chosen(round):
                picks = self._state.choose_given()
                out.write_table(path, picks)
                progress(picks.num_rows, picks.num_rows)
                return {}
            ids = self._state.shortlist(round)
            has_features = self._state.has_output(round, "generation", features)
            picks = self._state.select(
                strategy,
                parameters,
                ids,
                self._state.affordable(round),
                round,
                features if has_features else None,
                progress,
                self._remote,
            )
            out.write_table(path, picks)
            progress(picks.num_rows, picks.num_rows)
            bound = read_bound(out.read_table(path, ["id"]))
            return {} if bound is None else {"bound": asdict(bound)}

        self._commit(round, "selection", path, make)

    def annotate_batch(self, round: int) -> None:
        """Label the query batch, except what the journal has already.

        Raises:
            BudgetSpent: nothing was bought, as the run's money is spent on labels of earlier
                rounds.
            UserError: a budget is too small for any label of the round.
            RunPaused: a model left too many examples without a label.
        """
        path = f"{round_folder(round)}/annotations.jsonl"

        def make(progress: Progress, out: RunFolder) -> None:
            picked = self._folder.read_table(
                f"{round_folder(round)}/selection.parquet", columns=["id"]
            )
            self._buy_labels(round, picked["id"].to_pylist(), progress)
            out.write_jsonl(path, [asdict(label) for label in self._state.labels_of(round)])
            progress(picked.num_rows, picked.num_rows)

        if self._commit(round, "annotation", path, make):
            self._write_labels(round)

    def _buy_labels(self, round: int, ids: Sequence[str], progress: Progress) -> None:
        """Have `ids` labelled in `round`, except those that the journal has. Raises as
        `annotate_batch`.
        """
        # The journal may have labels of this round from before a kill.
        have = {label.id for label in self._state.labels_of(round)}
        have |= self._state.deleted  # since they were picked
        missing = [id_ for id_ in ids if id_ not in have]
        texts = self._state.texts(missing)
        context = self._open_context(round, progress)
        annotator = build_annotator(self._config.annotator, context)
        labels, dead = annotator.annotate_batch(missing, [texts[id_] for id_ in missing])
        # Labels of people are entered as they are given, and may have changed since.
        have = {label.id for label in self._state.labels_of(round)}
        dead = [letter for letter in dead if letter.id not in have]
        labels = [label for label in labels if label.id not in have]
        self._journal.record_dead_letters(self._lease, round, dead)
        self._journal.record_annotations(self._lease, round, labels)
        self._check_budget(round, context)
        self._check_dead_letters(round, dead, len(ids))

    def draw_audit(self) -> None:
        """Draw the examples to measure by, and have them labelled; see `atgen_ray/runs/audit.py`.

        Raises:
            UserError: the pool is too small, or a budget buys none of these labels.
            RunPaused: a model left too many of them without a label.
        """
        audit = self._config.evaluation.audit
        if audit is None:
            return
        seed = self._config.seed

        def draw_first(_: Progress, out: RunFolder) -> None:
            candidates = self._state.candidates(self._state.inherited + 1)
            known = list_labelled(audit.models, self._journal)
            candidates = exclude_labelled(candidates, known)
            frame = build_frame(self._folder, audit, candidates, seed)
            out.write_table(AUDIT_FRAME, frame)
            out.write_table(AUDIT_FIRST, draw(frame, audit, seed).to_table())

        def draw_second(progress: Progress, out: RunFolder) -> None:
            first = AuditSample.from_table(self._folder.read_table(AUDIT_FIRST))
            self._buy_labels(0, first.ids, progress)
            frame = self._folder.read_table(AUDIT_FRAME)
            values = self._score_first(progress)
            sample = draw_more(self._folder, frame, audit, first, values, seed)
            out.write_table(AUDIT_SAMPLE, sample.to_table())

        def label(progress: Progress, _: RunFolder) -> None:
            self._buy_labels(0, read_sample(self._folder).ids, progress)

        self._commit(0, AUDIT_DRAW, AUDIT_FIRST, draw_first)
        self._commit(0, AUDIT, AUDIT_SAMPLE, draw_second, f"{round_folder(0)}/audit.parts")
        self._commit(0, AUDIT_LABELS, None, label)

    def _score_first(self, progress: Progress) -> dict[str, float | None]:
        """Return the scores by which the audit is planned, of what it has labelled so far: those of
        the untuned model, or of the first one that is to be measured.
        """
        references = {label.id: [label.text] for label in self._state.audit_labels()}
        if not references:
            return {}
        models = self._config.evaluation.audit.models if self._config.evaluation.audit else []
        adapter = find_model(models[0], self._config, self._journal) if models else None
        splits = dict.fromkeys(references, "audit")
        rows, metrics = self._score(0, splits, references, progress, name="audit", other=adapter)
        planned = choose_planned(self._config, [*metrics["audit"]])
        return {row["id"]: row["scores"][planned] for row in rows}

    def measure_models(self) -> str:
        """Label a sample of the pool and score the models of evaluation.audit.models by it, and the
        untuned model where there are none; otherwise like `run`.
        """
        audit = self._config.evaluation.audit
        if audit is None:
            raise UserError("evaluation.audit is null, expected how many labels to measure by")
        self.recover()
        self.write_provenance()
        check_annotators(self._config)
        self.disclose_models()
        self.prepare_pool()
        self.embed_pool()
        self.draw_audit()
        models = audit.models or [UNTUNED]
        for place, model in enumerate(models):
            self._measure_model(place, model)
        self._write_measured(models)
        return MEASURED

    def _measure_model(self, place: int, model: str) -> None:
        """Score one model by the labels of the audit."""
        path = f"audit/{place:03d}/predictions.jsonl"

        def make(progress: Progress, out: RunFolder) -> None:
            references = {label.id: [label.text] for label in self._state.audit_labels()}
            adapter = find_model(model, self._config, self._journal)
            splits = dict.fromkeys(references, "audit")
            rows, _ = self._score(
                place, splits, references, progress, name=MEASUREMENT, other=adapter
            )
            out.write_jsonl(path, rows)

        self._commit(place, MEASUREMENT, path, make, f"{round_folder(place)}/{MEASUREMENT}.parts")

    def _write_measured(self, models: Sequence[str]) -> None:
        """Write the scores of the models, and by how much each differs from the first."""
        sample = read_sample(self._folder)
        paths = [f"audit/{at:03d}/predictions.jsonl" for at in range(len(models))]
        rows = [self._folder.read_jsonl(path) for path in paths]
        confidence = self._config.evaluation.confidence
        self._lease.renew()
        self._folder.write_json(AUDIT_MODELS, describe_models(sample, models, rows, confidence))

    def _write_labels(self, round: int) -> None:
        """Write the labels up to `round` for users."""
        self._lease.renew()
        self._folder.write_jsonl("labeled.jsonl", self._state.labeled_rows(round))

    def evaluate_few_shot(self, round: int) -> None:
        """Evaluate the untuned model with labels up to `round` as solved examples in its prompt:
        the baseline of tuning.
        """
        path = f"{round_folder(round)}/few_shot.json"

        def make(progress: Progress, out: RunFolder) -> None:
            config = self._config
            references = self._state.test_references
            labels = self._state.labels(round)[: config.evaluation.few_shot]
            texts = self._state.texts(label.id for label in labels)
            solved = [Shot(input=texts[label.id], output=label.text) for label in labels]
            model, prompt = show_solved(config.model, config.prompt, solved)
            splits = dict.fromkeys(references, "test")
            rows: list[dict[str, Any]] = []
            metrics: dict[str, Any] = {}
            if splits:
                # Its prompts are longer than those of the run's engine. Two engines need not fit.
                self._model.engine.close()
                build = self._workers.build_engine
                with closing(build(model, prompt, config.engine, self._folder)) as engine:
                    rows, metrics = self._score(round, splits, references, progress, engine)
            out.write_jsonl(f"{round_folder(round)}/few_shot.jsonl", rows)
            out.write_json(path, metrics)

        self._commit(round, "few_shot", path, make, f"{round_folder(round)}/few_shot.parts")

    def train_adapter(self, round: int) -> None:
        """Fine-tune an adapter on all labels so far, from the base model or, with `warm_start`, the
        last adapter.
        """
        # Read before the labels: a change in between may count as unknown, never as known.
        changes = read_last_change(self._journal, self._config.name)
        labels = self._state.labels(round)
        dev = self._state.dev(round)
        texts = self._state.texts(label.id for label in labels)
        labeled = [TrainingExample(label.id, texts[label.id], label.text) for label in labels]
        examples = [example for example in labeled if example.id not in dev]
        path = f"{round_folder(round)}/adapter"
        work = f"{round_folder(round)}/training"

        def make(_: Progress, out: RunFolder) -> dict[str, Any]:
            if changes:
                self._write_labels(round)
            training = self._config.training
            order = [training.order] if training.order else []
            seed = mix_seed(self._config.seed, "training", round, *order)
            begins = self._state.start_adapter
            start_from = self._state.adapter(round - 1) if training.warm_start else begins
            logs = None
            if "tensorboard" in training.trackers:
                logs = self._folder.path(f"logs/{round:03d}")
            self._outputs.claim_work(work)
            # The engine gives the GPU up while training needs it.
            with (
                self._model.engine.released(self._config.name),
                out.publish(path) as output,
            ):
                result = self._workers.train_adapter(
                    self._weigh(examples),
                    self._config.model,
                    self._config.prompt,
                    training,
                    seed=seed,
                    output=output,
                    work=self._folder.path(self._outputs.name_work(work)),
                    progress=self._remote,
                    start_from=start_from,
                    dev=[example for example in labeled if example.id in dev],
                    logs=logs,
                    probes=self._model.probes,
                )
            out.write_json(f"{round_folder(round)}/training.json", asdict(result))
            return {LABEL_CHANGES: changes}

        if examples:
            self._commit(round, "training", path, make, work)

    def evaluate_adapter(self, round: int) -> None:
        """Score greedy answers on the test set (for the report) and the dev split (for
        stopping).
        """
        path = f"{round_folder(round)}/metrics.json"

        def make(progress: Progress, out: RunFolder) -> None:
            references = self._state.test_references
            dev = self._state.dev(round)
            measured = {label.id: [label.text] for label in self._state.audit_labels()}
            splits = dict.fromkeys(references, "test") | dict.fromkeys(dev, "dev")
            splits |= dict.fromkeys(measured, "audit")
            # The labels of the dev split are its references.
            references = references | {
                label.id: [label.text] for label in self._state.labels(round) if label.id in dev
            }
            references |= measured
            rows: list[dict[str, Any]] = []
            metrics: dict[str, Any] = {}
            if splits:
                rows, metrics = self._score(round, splits, references, progress)
            if measured:
                audited = [row for row in rows if row["split"] == "audit"]
                confidence = self._config.evaluation.confidence
                metrics["audit"] = score_audit(read_sample(self._folder), audited, confidence)
                metrics["audit_labels"] = len(audited)
            out.write_jsonl(f"{round_folder(round)}/predictions.jsonl", rows)
            out.write_json(path, metrics)

        self._commit(round, "evaluation", path, make, f"{round_folder(round)}/predictions.parts")
        rows = collect_rows(self._config.name, self._journal, self._folder)
        self._lease.renew()
        self._folder.write_json("metrics.json", rows)
        self._tracking.log(rows)

    def _weigh(self, examples: list[TrainingExample]) -> list[TrainingExample]:
        """Return the examples with their weights in the loss."""
        largest = self._config.training.reweight
        if largest is None:
            return examples
        ids = [example.id for example in examples]
        rows = pa.concat_tables(self._state.scan_pool("id", "content"))
        pool = rows["id"].filter(pc.not_equal(rows["content"], TOMBSTONE))
        sampled = sample_pool(pool)
        embeddings = read_vectors(self._folder, pa.array([*ids, *sampled], pa.string()))
        weights = weigh_examples(ids, sampled, embeddings, largest)
        return [replace(example, weight=weights[example.id]) for example in examples]

    def find_stop(self, round: int) -> str | None:
        """Return why the run ends after `round`, or None."""
        labels = self._state.count_budgeted(round)
        dev_scores = self._state.dev_scores(round)
        if self._state.budget_met(round):
            return BUDGET
        bought = self._state.bought(round) if self._config.stopping.gain else []
        selectable = len(self._state.candidates(round + 1))
        count = max(0, min(self._state.affordable(round + 1), selectable))
        stopping = self._config.stopping.model_copy(update={"rounds": self._config.rounds})
        audited = self._state.audited_scores(round)
        return find_stop(stopping, round, labels, dev_scores, selectable, bought, count, audited)

    def _check_overlap(self) -> None:
        """Warn of examples that are in the test set too. Raise UserError where the pool has no
        others.
        """
        if self._config.data.test is None:
            return
        rows = self._folder.count_rows("pool.parquet")
        test = self._folder.read_table("test.parquet", columns=["content"])
        pool = self._folder.scan_table("pool.parquet", columns=["id", "content"])
        leaked = sum(len(overlap(part, test)) for part in pool)
        warning = warn_of_overlap(rows, leaked)
        if leaked == rows:
            raise UserError(f"nothing can be labelled: {warning}")
        if warning:
            self._warn(warning, "pool")

    def _check_chosen(self) -> None:
        """Raise UserError where selection.ids names what cannot be picked in the first round."""
        given = self._config.selection.ids
        if given is None or (1, "selection") in self._committed:
            return
        ids = read_ids(given)
        parts = self._state.scan_pool("id")
        for line in find_unknown_ids(given, ids, parts):
            raise UserError(line)
        if not self._state.choose_given().num_rows:
            raise UserError(
                f"selection.ids names {len(ids)} examples, none of which is left to label: each "
                f"is labelled already, or stands in data.test"
            )

    def disclose_models(self) -> None:
        """Warn of old prices, of models that are going to end, and of providers that keep what they
        are asked.
        """
        lines = find_remote_warnings(
            self._config, datetime.fromtimestamp(machine().time(), UTC).date()
        )
        for key, annotator in list_remote(self._config):
            # Whoever wrote `stored` knows it.
            if not isinstance(annotator, OpenAIAnnotatorConfig) or annotator.recovery == "auto":
                lines += find_stored(key, annotator)
        for line in lines:
            self._warn(line)

    def _warn(self, warning: str, step: str | None = None) -> None:
        """Record a warning, once in a run."""
        warned = [
            event.payload[WARNING]
            for event in self._journal.events(self._config.name)
            if event.kind == WARNING
        ]
        if warning not in warned:
            self._journal.append(self._lease, WARNING, 0, step, {WARNING: warning})

    def _check_budget(self, round: int, context: AnnotationContext) -> None:
        """Raise BudgetSpent or UserError if a budget left every example of the round without a
        label.
        """
        bought = (label for label in self._state.labels_of(round) if label.annotator != GIVEN)
        if not context.shortfalls or any(bought):
            return
        met = context.shortfalls[-1]
        if met.limit == "run" and self._state.count_budgeted(round):
            raise BudgetSpent
        raise UserError(
            f"no label can be bought in round {round}: {context.describe_shortfall(met)}"
        )

    def _check_dead_letters(self, round: int, dead: Sequence[DeadLetter], picked: int) -> None:
        """Raise RunPaused if a model left too large a share of the round's examples without a
        label: something is wrong that the user can cure before more is paid and trained on.
        """
        limit = self._config.stopping.dead_letters
        _, last = list_annotators(self._config.annotator)[-1]
        if limit is None or not isinstance(last, LLMAnnotatorConfig):
            return  # people and data sets leave out what they mean to leave out
        if len(dead) < FEW_DEAD or len(dead) < limit * picked:
            return
        reason, count = Counter(letter.reason for letter in dead).most_common(1)[0]
        said = " ".join(reason.split())[:500]
        raise RunPaused(
            f"{len(dead)} of {picked} examples of round {round} got no label, {count} of them "
            f"because: {said}. Cure the cause and open them again by `atgen-ray runs retry "
            f"{self._config.name}`, or accept it by stopping.dead_letters=null (now {limit:g}); "
            f"then the same command goes on"
        )

    def _require_labels(self, round: int, reason: str) -> None:
        """Raise UserError if the run would end after `round` without any label, or untrained."""
        if round and self._state.count_labels(round):
            return
        dead_letters = [
            dead_letter
            for _, dead_letter in self._journal.dead_letters(self._config.name, step="annotation")
        ]
        first = (
            f" {len(dead_letters)} examples got none, the first: {dead_letters[0].reason}"
            if dead_letters
            else ""
        )
        what = "before its first round" if self._state.count_given() else "without a label"
        raise UserError(f"the run ends {what} ({reason}).{first}")

    def _commit(
        self,
        round: int,
        step: str,
        output: str | None,
        make: Callable[[Progress, RunFolder], dict[str, Any] | None],
        work: str | None = None,
    ) -> bool:
        """Do a step unless the journal has it: make its outputs aside, record them, give them their
        names, and remove the unfinished `work` of the step. Return whether it was done now.

        `make` writes to the folder that it is given, and may return more for the event.
        """
        if (event := self._committed.get((round, step))) is not None:
            if work is not None and event is self._last_step():
                # Whoever committed it may have died before it removed its work.
                self._outputs.remove_work(work)
            return False
        self._tracker.start_step(round, step)
        self._reused = 0.0
        started = machine().monotonic()
        basis = self._describe_basis()
        sealed = self._outputs.find(round, step, basis)
        if sealed is None:
            out = self._outputs.open(round, step)
            more = make(self._tracker, out)
            payload = {
                "output": output,
                "rows": self._tracker.snapshot()["total"],
                "reused_seconds": self._reused,
                **(more or {}),
            }
            seconds = machine().monotonic() - started
            sealed = self._outputs.seal(round, step, out, basis, payload, seconds)
        event = self._journal.append(self._lease, STEP, round, step, sealed.payload, sealed.seconds)
        self._committed[round, step] = event
        self._outputs.publish([event])
        if work is not None:
            # A controller that died may have made the step, and have left its work.
            self._outputs.remove_work(work)
        return True

    def _last_step(self) -> Event | None:
        """Return the event of the step that was committed last."""
        return max(self._committed.values(), key=lambda event: event.sequence, default=None)

    def _describe_basis(self) -> str:
        """Return what the next step is made from: the settings, and the last step in the journal.
        An older journal that was brought back has another last step, even of the same name.
        """
        last = self._last_step()
        stands = f"{last.sequence} {last.time!r}" if last else "nothing"
        return f"{self._journal.run(self._config.name).digest} {stands}"

    def _add_reused_seconds(self, seconds: float) -> None:
        self._reused += seconds

    def _record_engine(self, choice: dict[str, Any]) -> None:
        """Enter which engine works, where and why, unless the last attempt took the same."""
        before = self._journal.events(self._config.name, kind=ENGINE)
        if not before or before[-1].payload != choice:
            self._journal.append(self._lease, ENGINE, payload=choice)

    def _score(
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
        evaluation = self._config.evaluation
        ids = sorted(splits)
        texts = self._state.texts(ids)
        examples = pa.table({"id": ids, "text": [texts[id_] for id_ in ids]})
        name = "few_shot" if untuned else name
        named = [text for texts in references.values() for text in texts]
        metrics = choose_metrics(evaluation.metrics, self._config.stopping.steering, named)

        def answer(rows: pa.Table, section: int) -> pa.Table:
            return self._model.answer(
                round, round, rows, name, progress, untuned=untuned, section=section, other=other
            )

        predictions = dict.fromkeys(ids, "")
        generates = not all(METRICS[metric].likelihood for metric in metrics)
        if generates:
            features = answer(examples, 0)
            self._record_failures(round, "evaluation", features)
            # An example that the engine could not answer counts as an empty answer; it is a dead
            # letter too.
            given = pc.fill_null(features["text"], "").to_pylist()
            predictions = dict(zip(features["id"].to_pylist(), given, strict=True))
        nats = {}
        if any(METRICS[metric].likelihood for metric in metrics):
            engine = untuned or self._model.engine
            asked = {id_: references[id_] for id_ in ids}
            nats = read_nats(answer(list_references(texts, asked, engine), int(generates)))
        result = evaluate_splits(
            splits,
            predictions,
            references,
            metrics,
            evaluation.bootstrap_samples,
            evaluation.confidence,
            self._config.seed,
            sources=texts,
            resources=Resources(
                evaluation.models, build_judges(self._open_context(round, progress))
            ),
            scorer=self._workers.score,
            nats=nats,
        )
        progress(len(ids), len(ids))
        return result

    def _open_context(self, round: int, progress: Progress) -> AnnotationContext:
        labeled = self._state.labels(round - 1)
        texts = self._state.texts(label.id for label in labeled)
        return AnnotationContext(
            self._config,
            self._journal,
            self._lease,
            self._folder,
            round,
            texts,
            labeled,
            progress,
            wait_outside=self._tracker.wait_outside,
        )

    def _record_failures(self, round: int, step: str, features: pa.Table) -> None:
        failed = features.filter(pc.is_valid(features["error"])).select(["id", "error"]).to_pylist()
        self._journal.record_dead_letters(
            self._lease, round, [DeadLetter(row["id"], step, row["error"]) for row in failed]
        )


def _count_others(progress: Progress, before: int, after: int) -> Progress:
    """Return `progress` for a part of a step, which has more to do before and after that part."""
    return lambda done, total: progress(before + done, before + total + after)
