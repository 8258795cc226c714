"""Steps that label: the query batch of a round, within its budgets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.registry import build_annotator
from atgen_ray.config import LLMAnnotatorConfig, list_annotators
from atgen_ray.core.errors import BudgetSpent, RunPaused, UserError
from atgen_ray.core.records import GIVEN, DeadLetter, Progress
from atgen_ray.runs.run_context import RunContext
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder

FEW_DEAD = 2  # one dead letter in a round lies in its row


class LabelSteps:
    """Labels of a run, and what they may cost."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def annotate(self, round: int) -> None:
        """Label the query batch, except what the journal has already.

        Raises:
            BudgetSpent: nothing was bought, as the run's money is spent on labels of earlier
                rounds.
            UserError: a budget is too small for any label of the round.
            RunPaused: a model left too many examples without a label.
        """
        run = self._run
        path = f"{round_folder(round)}/annotations.jsonl"

        def make(progress: Progress, out: RunFolder) -> None:
            picked = run.folder.read_table(
                f"{round_folder(round)}/selection.parquet", columns=["id"]
            )
            self.buy(round, picked["id"].to_pylist(), progress)
            out.write_jsonl(path, [asdict(label) for label in run.state.labels_of(round)])
            progress(picked.num_rows, picked.num_rows)

        if run.committer.commit(round, "annotation", path, make):
            self.write(round)

    def buy(self, round: int, ids: Sequence[str], progress: Progress) -> None:
        """Have `ids` labelled in `round`, except those that the journal has. Raises as
        `annotate`.
        """
        run = self._run
        # The journal may have labels of this round from before a kill.
        have = {label.id for label in run.state.labels_of(round)}
        have |= run.state.deleted  # since they were picked
        missing = [id_ for id_ in ids if id_ not in have]
        texts = run.state.texts(missing)
        context = self.open_context(round, progress)
        annotator = build_annotator(run.config.annotator, context)
        labels, dead = annotator.annotate_batch(missing, [texts[id_] for id_ in missing])
        # Labels of people are entered as they are given, and may have changed since.
        have = {label.id for label in run.state.labels_of(round)}
        dead = [letter for letter in dead if letter.id not in have]
        labels = [label for label in labels if label.id not in have]
        run.journal.record_dead_letters(run.lease, round, dead)
        run.journal.record_annotations(run.lease, round, labels)
        self._check_budget(round, context)
        self._check_dead_letters(round, dead, len(ids))

    def write(self, round: int) -> None:
        """Write the labels up to `round` for users."""
        run = self._run
        run.lease.renew()
        run.folder.write_jsonl("labeled.jsonl", run.state.labeled_rows(round))

    def open_context(self, round: int, progress: Progress) -> AnnotationContext:
        run = self._run
        labeled = run.state.labels(round - 1)
        texts = run.state.texts(label.id for label in labeled)
        return AnnotationContext(
            run.config,
            run.journal,
            run.lease,
            run.folder,
            round,
            texts,
            labeled,
            progress,
            wait_outside=run.tracker.wait_outside,
        )

    def _check_budget(self, round: int, context: AnnotationContext) -> None:
        """Raise BudgetSpent or UserError if a budget left every example of the round without a
        label.
        """
        run = self._run
        bought = (label for label in run.state.labels_of(round) if label.annotator != GIVEN)
        if not context.shortfalls or any(bought):
            return
        met = context.shortfalls[-1]
        if met.limit == "run" and run.state.count_budgeted(round):
            raise BudgetSpent
        raise UserError(
            f"no label can be bought in round {round}: {context.describe_shortfall(met)}"
        )

    def _check_dead_letters(self, round: int, dead: Sequence[DeadLetter], picked: int) -> None:
        """Raise RunPaused if a model left too large a share of the round's examples without a
        label: something is wrong that the user can cure before more is paid and trained on.
        """
        run = self._run
        limit = run.config.stopping.dead_letters
        _, last = list_annotators(run.config.annotator)[-1]
        if limit is None or not isinstance(last, LLMAnnotatorConfig):
            return  # people and data sets leave out what they mean to leave out
        if len(dead) < FEW_DEAD or len(dead) < limit * picked:
            return
        reason, count = Counter(letter.reason for letter in dead).most_common(1)[0]
        said = " ".join(reason.split())[:500]
        raise RunPaused(
            f"{len(dead)} of {picked} examples of round {round} got no label, {count} of them "
            f"because: {said}. Cure the cause and open them again by `atgen-ray runs retry "
            f"{run.config.name}`, or accept it by stopping.dead_letters=null (now {limit:g}); "
            f"then the same command goes on"
        )

    def require(self, round: int, reason: str) -> None:
        """Raise UserError if the run would end after `round` without any label, or untrained."""
        run = self._run
        if round and run.state.count_labels(round):
            return
        dead_letters = [
            dead_letter
            for _, dead_letter in run.journal.dead_letters(run.config.name, step="annotation")
        ]
        first = (
            f" {len(dead_letters)} examples got none, the first: {dead_letters[0].reason}"
            if dead_letters
            else ""
        )
        what = "before its first round" if run.state.count_given() else "without a label"
        raise UserError(f"the run ends {what} ({reason}).{first}")
