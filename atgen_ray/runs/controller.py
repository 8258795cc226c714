"""Round loop of one run: pool, embedding, generation, selection, annotation, training, evaluation.

The controller says which step comes next; `atgen_ray/runs/steps` says how each is done, and
`Committer` makes it part of the run. A recorded step is not repeated: so a run may die at any
point, and a new controller continues from the journal.
"""

from datetime import UTC, datetime
from functools import partial

from atgen_ray.annotation.disclosure import find_remote_warnings, find_stored, list_remote
from atgen_ray.annotation.registry import check_annotators
from atgen_ray.config import OpenAIAnnotatorConfig, RunConfig
from atgen_ray.core.errors import BudgetSpent, UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import Progress
from atgen_ray.runs.audit import UNTUNED
from atgen_ray.runs.committer import Committer
from atgen_ray.runs.provenance import list_versions, write_provenance
from atgen_ray.runs.round_model import RoundModel
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.state import RunState
from atgen_ray.runs.steps import (
    AdapterSteps,
    AuditSteps,
    GrowthSteps,
    LabelSteps,
    PickSteps,
    PoolSteps,
    RivalSteps,
    ScoreSteps,
)
from atgen_ray.runs.stopping import BUDGET, MEASURED, SELECTED, find_stop
from atgen_ray.runs.tracking.tracking import Tracking
from atgen_ray.runs.workers import RAY_WORKERS, Workers
from atgen_ray.store.events import WARNING
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.run_folder import RunFolder


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
        state = RunState(config, journal, folder)
        committer = Committer(config, journal, lease, folder, tracker)
        note_reuse, note_engine = committer.add_reused_seconds, committer.record_engine
        model = RoundModel(config, state, folder, note_reuse, note_engine, workers)
        run = RunContext(
            config, journal, lease, folder, tracker, remote, workers, state, committer, model
        )
        self._run = run
        self._tracking = Tracking(config, journal, lease, folder)
        self.committer = committer
        self.pool = PoolSteps(run)
        self.growth = GrowthSteps(run, self.pool)
        self.picks = PickSteps(run)
        self.labels = LabelSteps(run)
        self.adapters = AdapterSteps(run, self.labels)
        self.scores = ScoreSteps(run, self.labels, self._tracking)
        self.audit = AuditSteps(run, self.labels, self.scores)
        self.rivals = RivalSteps(run, self.labels, self.scores)

    def run(self) -> str:
        """Run all rounds and return why the run ended.

        Raises:
            RunStopped: the tracker was asked to stop; committed steps are kept.
            UserError: the input has a mistake.
        """
        self.begin()
        with self._tracking:
            self.pool.prepare()
            self.pool.prepare_target()
            self.adapters.copy_start()
            self.pool.embed()
            self.growth.embed()
            self.audit.draw()
            if self._run.config.evaluation.starts:
                self.scores.evaluate_adapter(0)
            round = self._run.state.inherited
            if round:
                self.learn(round)
            reason = self.find_stop(round)
            while reason is None:
                round += 1
                reason = self.run_round(round) or self.find_stop(round)
            self.labels.require(round, reason)
            self.rivals.evaluate(round)
        return reason

    def close(self) -> None:
        """End what the run keeps between its steps."""
        self._run.model.engine.close()

    def run_round(self, round: int) -> str | None:
        """Run one round; return why the run ends in the middle of it, or None."""
        self.picks.generate_features(round)
        self.picks.select(round)
        try:
            self.labels.annotate(round)
        except BudgetSpent:
            return BUDGET
        self.learn(round)
        return None

    def learn(self, round: int) -> None:
        """Train on all labels up to `round` and evaluate the adapter."""
        first = max(1, self._run.state.inherited)
        if round == first and self._run.config.evaluation.few_shot:
            self.scores.evaluate_few_shot(round)
        self.adapters.train(round)
        self.scores.evaluate_adapter(round)

    def run_selection(self) -> str:
        """Select one query batch without labels and training (experimental design); otherwise like
        `run`.
        """
        self.recover()
        self.write_provenance()
        self.pool.prepare()
        self.pool.prepare_target()
        self.adapters.copy_start()
        self.pool.embed()
        self.growth.embed()
        self.growth.take(1, self._run.state.read_notes())
        self.picks.generate_features(1)
        self.picks.select(1)
        return SELECTED

    def measure_models(self) -> str:
        """Label a sample of the pool and score the models of evaluation.audit.models by it, and the
        untuned model where there are none; otherwise like `run`.
        """
        audit = self._run.config.evaluation.audit
        if audit is None:
            raise UserError("evaluation.audit is null, expected how many labels to measure by")
        self.begin()
        self.pool.prepare()
        self.pool.embed()
        self.growth.embed()
        self.audit.draw()
        models = audit.models or [UNTUNED]
        for place, model in enumerate(models):
            self.audit.measure(place, model)
        self.audit.write_measured(models)
        return MEASURED

    def begin(self) -> None:
        """Take up what an earlier controller left, and say what this one works with."""
        self.recover()
        self.write_provenance()
        check_annotators(self._run.config)
        self.disclose_models()

    def recover(self) -> None:
        """Finish what an earlier controller committed and could not publish."""
        last = self.committer.recover()
        if last is not None and last.step == "annotation":
            self.labels.write(last.round or 0)

    def write_provenance(self) -> None:
        """Record the versions that this attempt uses; an event warns of libraries that changed
        since the last attempt.
        """
        run = self._run
        engine = run.model.engine.name
        # What counts is installed where workers run, not here.
        gpus = run.workers.count_gpus_of(run.config.engine)
        nodes = run.workers.survey(partial(list_versions, engine), gpus)
        now = machine().time()
        warning = write_provenance(run.config, engine, run.folder, run.lease.epoch, now, nodes)
        if warning:
            run.journal.append(run.lease, WARNING, payload={"warning": warning})

    def disclose_models(self) -> None:
        """Warn of old prices, of models that are going to end, and of providers that keep what they
        are asked.
        """
        config = self._run.config
        today = datetime.fromtimestamp(machine().time(), UTC).date()
        lines = find_remote_warnings(config, today)
        for key, annotator in list_remote(config):
            # Whoever wrote `stored` knows it.
            if not isinstance(annotator, OpenAIAnnotatorConfig) or annotator.recovery == "auto":
                lines += find_stored(key, annotator)
        for line in lines:
            self.committer.warn(line)

    def find_stop(self, round: int) -> str | None:
        """Take what was added into the pool, and return why the run ends after `round`, or None."""
        state = self._run.state
        config = self._run.config
        notes = state.read_notes()
        if state.budget_met(round, notes):
            return BUDGET
        self.growth.take(round + 1, notes)  # what was added may be what the next round picks
        selectable = len(state.candidates(round + 1))
        return find_stop(
            config.stopping.model_copy(update={"rounds": config.rounds}),
            round,
            state.count_budgeted(round),
            state.dev_scores(round),
            selectable,
            state.bought(round) if config.stopping.gain else [],
            max(0, min(state.affordable(round + 1), selectable)),
            state.audited_scores(round),
        )
