"""Tasks of one round from the run's side: published within the budget, and collected when they are
answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.gold import is_gold
from atgen_ray.annotation.human.gold_items import publish_gold
from atgen_ray.annotation.human.resolution import CLOSED
from atgen_ray.annotation.human.run_labels import describe_label
from atgen_ray.annotation.human.task_store import IMPORTED, SETTLED, TaskStore
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.money import NANO, to_nano
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.labels import enter_annotations, enter_dead_letters
from atgen_ray.store.ledger import Entry
from atgen_ray.store.tables import tasks


@dataclass(frozen=True)
class TaskDraft:
    """A task to publish: the example's text, the model's suggestion, why it was selected, what a
    first annotator said, the columns beside the input with their texts, the characters of the
    input that the model reads (None: all), and the short columns of its row.
    """

    id: str
    input: str
    suggestion: dict[str, Any] | None
    why: dict[str, Any] | None
    first: dict[str, Any] | None
    context: Sequence[tuple[str, str]] | None = None
    window: int | None = None
    fields: dict[str, Any] | None = None


class TaskRound:
    """Publishes and collects the tasks of one round, under the lease of the run's controller."""

    def __init__(self, config: HumanAnnotatorConfig, context: AnnotationContext) -> None:
        self._context = context
        self._config = config
        self._task_store = TaskStore(context.config.name, config)
        self._overlap = config.overlap
        self._most = config.most_answers
        self._price = to_nano(config.price_per_label)
        self._settle = config.settle_seconds

    def publish_tasks(self, drafts: Sequence[TaskDraft]) -> int:
        """Insert the tasks that are not published yet, as many as the budget allows, and reserve
        their cost; return how many were new.
        """
        context = self._context
        worst = self._price * self._most
        pool = self._read_pool() if self._config.gold.file is not None else []
        with context.journal.leased_transaction(context.lease) as connection:
            known = connection.execute(
                sa.select(tasks.c.example_id).where(self._task_store.mine)
            ).scalars()
            # An earlier attempt may have published some of them before it was killed.
            present = set(known)
            new = [draft for draft in drafts if draft.id not in present]
            entries = [Entry(name_entry(draft.id), draft.id, worst) for draft in new]
            count, limit = context.ledger.reserve(connection, context.round, "human", entries)
            now = context.journal.database.clock(connection)
            rows = [
                {
                    "run": self._task_store.run,
                    "round": context.round,
                    "wanted": self._overlap,
                    "most": self._most,
                    "price": self._price,
                    "state": "open",
                    "example_id": draft.id,
                    "rank": rank,
                    "changed": now,
                    "input": draft.input,
                    "suggestion": draft.suggestion,
                    "why": draft.why,
                    "score": (draft.why or {}).get("score"),
                    "first": draft.first,
                    "context": draft.context,
                    "window": draft.window,
                    "fields": draft.fields,
                }
                for rank, draft in enumerate(new[:count])
            ]
            if rows:
                connection.execute(sa.insert(tasks), rows)
            publish_gold(connection, self._task_store.run, self._config, pool, now)
        context.record_shortfall(limit, len(new) - count, worst)
        return count

    def _read_pool(self) -> list[str]:
        """Return the ids of the pool, which no gold item must have."""
        folder = self._context.folder
        if not folder.exists("pool.parquet"):
            return []
        ids: list[str] = folder.read_table("pool.parquet", columns=["id"])["id"].to_pylist()
        return ids

    def count_left(self) -> int:
        """Return the number of tasks that are neither labelled nor given up."""
        query = sa.select(sa.func.count()).where(
            self._task_store.mine & tasks.c.state.not_in(CLOSED) & ~is_gold()
        )
        with self._context.journal.database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def collect_labels(self) -> tuple[list[Annotation], list[DeadLetter]]:
        """Return the labels and dead letters of tasks that were answered or dropped and have not
        changed for a while.

        Labels, dead letters and settlement are one transaction.
        """
        context = self._context
        query = (
            sa.select(tasks)
            .where(self._task_store.mine & tasks.c.state.in_(SETTLED))
            .order_by(tasks.c.round, tasks.c.rank)
        )
        labels = []
        dead = []
        paid = dict[str, int]()
        # Labels, dead letters, their money and the tasks' state are one transaction, so that a
        # kill leaves neither an unpaid label nor a paid task without one.
        with context.journal.leased_transaction(context.lease) as connection:
            now = context.journal.database.clock(connection)
            rows = (
                connection.execute(query.where(tasks.c.changed <= now - self._settle))
                .mappings()
                .all()
            )
            answers = self._task_store.answers(connection, [row["example_id"] for row in rows])
            keys = [name_entry(row["example_id"]) for row in rows if row["price"] is None]
            held = context.ledger.read_held(connection, keys)
            for row in rows:
                id_ = row["example_id"]
                outcome = self._task_store.resolve(connection, row)
                if outcome.state not in SETTLED:  # an earlier version dropped it at the first skip
                    self._task_store.settle(connection, id_, now)
                    continue
                given = [answer for answer in answers[id_] if answer["state"] == "submitted"]
                # Use the price at publication: a later, higher one could exceed what is reserved.
                price = row["price"]
                if price is None:  # published by an earlier version, or brought along
                    price = held.get(name_entry(id_), 0) // row["wanted"]
                cost = price * sum(answer["note"] != IMPORTED for answer in given)
                most = row["most"] or row["wanted"]
                paid |= _share_cost(id_, cost, price, most, min(most, self._most))
                if outcome.state == "dropped":
                    dead.append(DeadLetter(id_, "annotation", outcome.reason))
                    continue
                provenance = describe_label(row, given, outcome)
                label = Annotation(
                    id_, outcome.text, f"human/{outcome.annotator}", cost / NANO, provenance
                )
                labels.append(join_first(label, row["first"]) if row["first"] else label)
            enter_annotations(
                context.journal.database, connection, self._task_store.run, context.round, labels
            )
            enter_dead_letters(
                context.journal.database, connection, self._task_store.run, context.round, dead
            )
            context.ledger.settle(connection, paid)
            self._close(connection, "taken", [label.id for label in labels], now)
            self._close(connection, "buried", [dead_letter.id for dead_letter in dead], now)
        return labels, dead

    def _close(self, connection: sa.Connection, state: str, ids: Sequence[str], now: float) -> None:
        """Set the state of tasks that the run has collected."""
        here = self._task_store.mine & (tasks.c.example_id == sa.bindparam("closed"))
        if ids:
            update = sa.update(tasks).where(here).values(state=state, collected=now)
            connection.execute(update, [{"closed": id_} for id_ in ids])


def join_first(label: Annotation, first: Mapping[str, Any]) -> Annotation:
    """Return a second annotator's label with what the first one said and cost."""
    dollars = label.dollars + float(first.get("dollars", 0.0))
    return Annotation(
        label.id, label.text, label.annotator, dollars, label.provenance | {"first": dict(first)}
    )


def name_entry(example_id: str, answer: int | None = None) -> str:
    """Return the key in the ledger of a task's answers, or of one `answer` more, by its number,
    that an admin asked for.
    """
    return f"human-{example_id}" if answer is None else f"human-{example_id}/{answer}"


def _share_cost(id_: str, cost: int, price: int, most: int, first: int) -> dict[str, int]:
    """Return the cost of a task by its entries in the ledger: the answers up to `first` have one
    together, each further one up to `most` its own.
    """
    paid = {name_entry(id_): min(cost, price * first)}
    for number in range(first + 1, most + 1):
        cost_so_far = sum(paid.values())
        paid[name_entry(id_, number)] = min(price, cost - cost_so_far)
    return paid
