"""State of a run, read from its folder and journal. Nothing here writes.

Every method takes a round and returns the state after it, whatever has happened since, so that a
resumed run decides as the first attempt did. Only a label that people changed counts with its new
text in all rounds.
"""

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import RunConfig, read_source
from atgen_ray.core.errors import OutputMissingError, UserError
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import DELETED, SELECTION_SCHEMA, Annotation, Progress
from atgen_ray.core.stored import Stored
from atgen_ray.data.chosen_ids import read_ids
from atgen_ray.evaluation import METRICS, dev_split
from atgen_ray.evaluation.audit import compare_audited
from atgen_ray.ray_runtime.workers import SMALL_POOL, run_apart
from atgen_ray.runs.audit import AuditedScores, read_sample
from atgen_ray.runs.stored_selection import StoredFeatures, select_stored
from atgen_ray.selection import Need
from atgen_ray.selection.strategy import MODEL
from atgen_ray.store.additions import ADDED
from atgen_ray.store.events import Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import (
    AUDIT_FIRST,
    AUDIT_SAMPLE,
    START,
    START_ADAPTER,
    round_folder,
)
from atgen_ray.store.ledger import read_cost
from atgen_ray.store.run_folder import RunFolder

# Steps of round 0 that draw the audit and have its labels; `atgen_ray/runs/audit.py`.
AUDIT_DRAW = "audit-draw"
AUDIT = "audit"
AUDIT_LABELS = "audit-labels"
MEASUREMENT = "measurement"  # of a model by `atgen-ray evaluate`; its round is the model's place
MOST_CANDIDATES = 80_000_000  # ids of 24 letters that one Arrow array holds, whose limit is 2 GiB


def check_pool_size(config: RunConfig, rows: int) -> None:
    """Raise UserError for a pool of more examples than can be candidates at once."""
    if rows > MOST_CANDIDATES and config.selection.candidates is None:
        raise UserError(
            f"selection.candidates is null and data.pool has {rows:,} examples, expected at most "
            f"{MOST_CANDIDATES:,} candidates in a round: set selection.candidates (drawn anew in "
            f"each round), or data.limit"
        )


def explain_missing(run: str, round: int, step: str, path: str) -> str:
    """Return one line for an output at `path` that the journal of `run` knows but that is gone, and
    how to go on.
    """
    return (
        f"{path} is missing, although the journal has the {step} of round {round} of run '{run}': "
        f"bring it back from a "
        f"backup, or do it again in a new run that takes over the labels: atgen-ray run CONFIG "
        f"--name NEW --from {run}"
    )


class RunState:
    """Examples, labels and adapters of one run after any of its rounds."""

    def __init__(self, config: RunConfig, journal: Journal, folder: RunFolder) -> None:
        self._config = config
        self._journal = journal
        self._folder = folder
        self._texts: dict[str, str] = {}
        self._drawn: set[str] | None = None
        # Rounds at whose beginning the pool grew, and its rows before, in order; a controller sets
        # it. What was decided before stays: in a round the pool is what it was then.
        self.grown: Sequence[tuple[int, int]] = ()

    @property
    def inherited(self) -> int:
        """Return the last round that was taken over from another run; 0 where none was."""
        return read_source(self._config)[1]

    def scan_pool(self, *columns: str) -> Iterator[pa.Table]:
        """Yield these columns of the pool, POOL_SCHEMA, in parts."""
        return self._folder.scan_table("pool.parquet", columns)

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the user turn of each of `ids`, labelled or in the test set, by id. They are asked
        for in every round, and so are kept.
        """
        ids = [*ids]
        missing = [id_ for id_ in ids if id_ not in self._texts]
        tables = ["pool.parquet", *(["test.parquet"] if self._config.data.test else [])]
        for table in tables if missing else []:
            rows = self._folder.read_rows(table, missing, ["id", "text"])
            self._texts |= {row["id"]: row["text"] for row in rows}
        return {id_: self._texts[id_] for id_ in ids}

    @cached_property
    def test_references(self) -> dict[str, list[str]]:
        """Return the references of the test set; those of the pool are never read here."""
        if self._config.data.test is None:
            return {}
        test = self._folder.read_table("test.parquet", columns=["id"])["id"].to_pylist()
        gold = self._folder.read_rows("gold.parquet", test)
        return {row["id"]: row["references"] for row in gold}

    def strategy(self, round: int) -> tuple[str, dict[str, Any], int]:
        """Return name and parameters of the strategy of `round`, and how many examples to
        select.
        """
        name, parameters = self._config.selection.choose_strategy(round)
        return name, parameters, self._config.count_picks(round)

    def needs(self, round: int) -> frozenset[Need]:
        """Return the inputs that the strategy of `round` needs."""
        return self._config.list_needs(round)

    def affordable(self, round: int) -> int:
        """Return how many examples to select in `round`: the configured count, within the label
        budget.
        """
        count = self.strategy(round)[2]
        budget = self._config.stopping.labels
        return count if budget is None else min(count, budget - self.count_budgeted(round - 1))

    def candidates(self, round: int) -> pa.StringArray:
        """Return the ids that may be selected in `round`: without a label, a dead letter of an
        earlier round, or a near-duplicate.
        """
        unwanted = set(self._journal.labelled(self._config.name, last=round - 1))
        unwanted |= self._journal.buried(self._config.name, before=round)
        unwanted |= self.audited
        closed = pa.array(unwanted, pa.string())
        limit = self._config.selection.candidates
        if limit is None:
            return pa.concat_arrays([pa.array([], pa.string()), *self._scan_open(closed, round)])
        # Drawn as they are read, so that a limit holds for memory too.
        places = itertools.count()
        drawn = heapq.nsmallest(
            limit,
            zip(
                (id_.as_py() for ids in self._scan_open(closed, round) for id_ in ids),
                places,
                strict=False,
            ),
            lambda pair: mix_seed(self._config.seed, "candidates", round, pair[0]),
        )
        if next(places) <= limit:
            drawn.sort(key=itemgetter(1))  # all of them, in the order of the pool
        return pa.array([id_ for id_, _ in drawn], pa.string())

    def _scan_open(self, closed: pa.StringArray, round: int) -> Iterator[pa.StringArray]:
        """Yield the ids of the pool, as it was in `round`, that may be selected and are not in
        `closed`, in its order.
        """
        exclude = self._config.data.duplicates.action == "exclude"
        left = next((before for at, before in self.grown if at > round), None)
        for part in self.scan_pool("id", "duplicate_of"):
            if left is not None:
                part = part.slice(0, left)
                left -= len(part)
            if exclude:
                part = part.filter(pc.is_null(part["duplicate_of"]))
            yield from part["id"].filter(pc.invert(pc.is_in(part["id"], closed))).chunks

    def shortlist(self, round: int) -> pa.StringArray:
        """Return those of `candidates` that the strategy of `round` sees: all, unless a shortlist
        limits the model's work.
        """
        ids = self.candidates(round)
        shortlist = self._config.selection.shortlist
        if shortlist is None or len(ids) <= shortlist.count or not self.needs(round) & MODEL:
            return ids
        picks = self.select(shortlist.strategy, shortlist.parameters, ids, shortlist.count, round)
        return picks["id"].combine_chunks().sort()

    def choose_given(self) -> pa.Table:
        """Return the picks of the first round that selection.ids names (SELECTION_SCHEMA): in its
        order and within the label budget, without those that are labelled, dead or audited.
        """
        given = self._config.selection.ids
        if given is None:
            raise ValueError("selection.ids is null")
        gone = {*self._journal.labelled(self._config.name, last=0), *self.audited}
        gone |= self._journal.buried(self._config.name, before=1)
        ids = [id_ for id_ in read_ids(given) if id_ not in gone]
        budget = self._config.stopping.labels
        if budget is not None:
            ids = ids[: max(0, budget - self.count_budgeted(0))]
        rows = [{"id": id_, "rank": at, "score": 0.0, "parts": {}} for at, id_ in enumerate(ids, 1)]
        return pa.Table.from_pylist(rows, SELECTION_SCHEMA)

    def select(
        self,
        strategy: str,
        parameters: Mapping[str, Any],
        ids: pa.StringArray,
        count: int,
        round: int,
        features: str | None = None,
        progress: Progress = lambda done, total: None,
        remote: Progress = lambda done, total: None,
    ) -> pa.Table:
        """Return `count` picks of a strategy among `ids` (SELECTION_SCHEMA), with what it needs of
        the pool, of the labels before `round` and of the table `features` in the run's folder.

        Above `SMALL_POOL` candidates a worker selects, so that vectors and texts are never here;
        then `remote` receives the progress, and `progress` can end the work.
        """
        labels = {label.id: label.text for label in self.labels(round - 1)}
        arguments = (
            self._folder,
            strategy,
            dict(parameters),
            ids,
            count,
            labels,
            StoredFeatures(self._folder, features) if features else None,
            self._config.seed,
            round,
            self._config.selection.workers,
        )
        turns = self._config.selection.turns
        if len(ids) <= SMALL_POOL:
            return select_stored(*arguments, progress, turns)
        # No CPU is reserved: the worker waits most of the time for those that it employs.
        return run_apart(
            select_stored, (*arguments, remote, turns), 0, lambda: progress(0, len(ids))
        )

    def labels(self, round: int) -> list[Annotation]:
        """Return the labels bought up to and including `round`, in the order of purchase, without
        those of the audit, from which nothing is learnt.
        """
        audited = self.audited
        bought = self._journal.annotations(self._config.name, last=round)
        return [label for _, label in bought if label.id not in audited]

    @property
    def audited(self) -> set[str]:
        """Return the examples that the audit has drawn so far, with a label or without."""
        if self._config.evaluation.audit is None:
            return set()
        if self._drawn is None:
            drawn = AUDIT_SAMPLE
            if not self.has_output(0, AUDIT, drawn):
                if not self.has_output(0, AUDIT_DRAW, AUDIT_FIRST):
                    return set()
                drawn = AUDIT_FIRST
            ids = set(self._folder.read_table(drawn, ["id"])["id"].to_pylist())
            if drawn == AUDIT_FIRST:
                return ids
            self._drawn = ids  # it is read in every step, and never changes again
        return self._drawn

    def audit_labels(self) -> list[Annotation]:
        """Return the labels of the audit."""
        audited = self.audited
        bought = self._journal.annotations(self._config.name, last=0) if audited else []
        return [label for _, label in bought if label.id in audited]

    @property
    def deleted(self) -> set[str]:
        """Return the examples that were deleted on request, or whose label was."""
        letters = self._journal.dead_letters(self._config.name, step=DELETED)
        return {letter.id for _, letter in letters}

    def count_labels(self, round: int) -> int:
        """Return the number of labels bought up to and including `round`."""
        counts = self._journal.count_labels(self._config.name)
        return sum(count for at, count in counts.items() if at <= round)

    def count_budgeted(self, round: int) -> int:
        """Return how many labels up to and including `round` count in stopping.labels: all but
        those of data.labeled.
        """
        return self.count_labels(round) - self.count_given()

    def count_given(self) -> int:
        """Return the number of labels that data.labeled gave."""
        if self._config.data.labeled is None:
            return 0
        return self.count_labels(0) - len(self.audit_labels())

    def labels_of(self, round: int) -> list[Annotation]:
        """Return the labels bought in `round`."""
        return [
            label
            for _, label in self._journal.annotations(self._config.name, first=round, last=round)
        ]

    def labeled_rows(self, round: int) -> list[dict[str, Any]]:
        """Return the lines of labeled.jsonl, the run's product for the user."""
        labels = self._journal.annotations(self._config.name, last=round)
        texts = self.texts(label.id for _, label in labels)
        return [{"round": at, "input": texts[label.id], **asdict(label)} for at, label in labels]

    def read_notes(self) -> list[Event]:
        """Return the events that a round begins with, in order: of budgets that kept examples
        without a label, and of rows that were added to the pool.
        """
        return self._journal.events(self._config.name, kind=("budget", ADDED))

    def budget_met(self, round: int, notes: Iterable[Event]) -> bool:
        """Return whether the run's budget, at its present value, left an example without a label up
        to `round`, by the events of `read_notes`.
        """
        limit = self._config.stopping.dollars
        met = [event for event in notes if event.kind == "budget"]
        return limit is not None and any(
            event.payload["limit"] == "run"
            and event.payload["dollars"] >= limit
            and (event.round or 0) <= round
            for event in met
        )

    def dev(self, round: int) -> set[str]:
        """Return the labelled examples that are held out of training; an example never changes
        sides.
        """
        ids = self._journal.labelled(self._config.name, last=round)
        return dev_split(ids, self._config.evaluation.dev_fraction, self._config.seed)

    def adapter(self, round: int) -> Stored | None:
        """Return the newest adapter after `round`, or the one that the run goes on from; None is
        the base model.

        Raises:
            OutputMissingError: the journal has the training, but its output is gone. An earlier
                adapter, or the base model, would not be the trained model.
        """
        trained = (
            at
            for at in range(round, 0, -1)
            if self.has_output(at, "training", f"{round_folder(at)}/adapter")
        )
        newest = next(trained, None)
        if newest is None:
            return self.start_adapter
        return self._folder.refer(f"{round_folder(newest)}/adapter")

    @property
    def start_adapter(self) -> Stored | None:
        """Return the adapter that training begins with, the run's copy of model.adapter; None is
        the base model. Raises as `adapter`.
        """
        if self._config.model.adapter is None or not self.has_output(0, START, START_ADAPTER):
            return None
        return self._folder.refer(START_ADAPTER)

    def has_output(self, round: int, step: str, path: str) -> bool:
        """Return whether a step has left its output at `path`; what the journal does not name does
        not count.

        Raises:
            OutputMissingError: the journal says that it has, but nothing is there.
        """
        if (round, step) not in self._journal.committed_steps(self._config.name):
            return False
        if self._folder.exists(path):
            return True
        raise OutputMissingError(
            explain_missing(self._config.name, round, step, self._folder.path(path))
        )

    @property
    def steers_by(self) -> str:
        """Return the split whose scores may end the run: dev, or audit where there is none."""
        evaluation = self._config.evaluation
        return "audit" if evaluation.audit and not evaluation.dev_fraction else "dev"

    def bought(self, round: int) -> list[tuple[int, float]]:
        """Return labels to learn from and their dollars so far after each round up to `round` that
        has a score to steer by; parallel to `dev_scores`.
        """
        spending = read_cost(self._journal, self._config.name)
        measured = len(self.audit_labels())
        if measured:
            spending = {when: paid for when, paid in spending.items() if when}
        return [
            (
                self.count_labels(at) - measured,
                sum(paid for when, paid in spending.items() if when <= at),
            )
            for at, _ in self._steering(round)
        ]

    def dev_scores(self, round: int) -> list[dict[str, float]]:
        """Return the mean of every metric on the dev split, or as audited where there is none, one
        mapping a round up to `round`.
        """
        return [
            {name: value["mean"] for name, value in row.items()} for _, row in self._steering(round)
        ]

    def audited_scores(self, round: int) -> AuditedScores | None:
        """Return how sure the scores of `dev_scores` are; None where they are those of a split."""
        steering = self._steering(round) if self.steers_by == "audit" else []
        if not steering:
            return None
        confidence = self._config.evaluation.confidence
        sample = read_sample(self._folder)

        def compare(metric: str, first: int, second: int) -> float:
            one, other = (self._audited_rows(steering[place][0]) for place in (first, second))
            found = compare_audited(sample, one, other, metric, confidence)
            return found.error if found else 0.0

        sure = {
            name: value["high" if METRICS[name].better == "lower" else "low"]
            for name, value in steering[-1][1].items()
        }
        return AuditedScores(sure, compare)

    def _audited_rows(self, round: int) -> list[dict[str, Any]]:
        rows = self._folder.read_jsonl(f"{round_folder(round)}/predictions.jsonl")
        return [row for row in rows if row["split"] == "audit"]

    def _steering(self, round: int) -> list[tuple[int, dict[str, Any]]]:
        """Return each round up to `round` that has scores to steer by, with its metrics."""
        rows = [
            (at, self._folder.read_json(f"{round_folder(at)}/metrics.json"))
            for at in self._learnt(round)
        ]
        return [(at, row[self.steers_by]) for at, row in rows if row.get(self.steers_by)]

    def _learnt(self, round: int) -> range:
        """Return the rounds up to `round` in which the run has trained and evaluated."""
        return range(max(1, self.inherited), round + 1)
