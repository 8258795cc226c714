"""One round's tasks as the run sees them: put up within the budget, and taken when they are
answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.human.resolution import CLOSED
from atgen_ray.annotation.human.task_store import IMPORTED, TaskStore
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.money import NANO, to_nano
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.ledger import Entry
from atgen_ray.store.tables import tasks


@dataclass(frozen=True)
class TaskDraft:
    """An example for people: its text, what the model would say, why it was picked, what a first
    annotator said.
    """

    id: str
    input: str
    suggestion: dict[str, Any] | None
    why: dict[str, Any] | None
    first: dict[str, Any] | None


class TaskRound:
    """Puts up and takes the tasks of one round, under the lease of the run's controller."""

    def __init__(self, config: HumanAnnotatorConfig, site: AnnotationContext) -> None:
        self._site = site
        self._desk = TaskStore(site.config.name, config)
        self._overlap = config.overlap
        self._price = to_nano(config.price_per_label)
        self._settle = config.settle_seconds

    def publish_tasks(self, offers: Sequence[TaskDraft]) -> int:
        """Enters tasks that are not up yet, as many as the budget allows, with their money; how
        many were new.
        """
        site = self._site
        worst = self._price * self._overlap
        with site.journal.leased_transaction(site.lease) as connection:
            known = connection.execute(
                sa.select(tasks.c.example_id).where(self._desk.mine)
            ).scalars()
            present = set(known)
            new = [offer for offer in offers if offer.id not in present]
            entries = [Entry(_key(offer.id), offer.id, worst) for offer in new]
            count, limit = site.ledger.reserve(connection, site.round, "human", entries)
            now = site.journal.database.clock(connection)
            common = {
                "run": self._desk.run,
                "round": site.round,
                "wanted": self._overlap,
                "state": "open",
            }
            names = ("input", "suggestion", "why", "first")
            rows = [
                common
                | {"example_id": offer.id, "rank": rank, "changed": now}
                | {name: getattr(offer, name) for name in names}
                for rank, offer in enumerate(new[:count])
            ]
            if rows:
                connection.execute(sa.insert(tasks), rows)
        site.note_limit(limit, len(new) - count, worst)
        return count

    def count_left(self) -> int:
        """Tasks whose label the run has not taken, and that are not given up."""
        query = sa.select(sa.func.count()).where(self._desk.mine & tasks.c.state.not_in(CLOSED))
        with self._site.journal.database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def take(self) -> tuple[list[Annotation], list[DeadLetter]]:
        """Takes what is answered or given up and was not changed for a while; labels, letters and
        money in one go.
        """
        site = self._site
        ready = ("answered", "dropped")
        query = (
            sa.select(tasks)
            .where(self._desk.mine & tasks.c.state.in_(ready))
            .order_by(tasks.c.round, tasks.c.rank)
        )
        labels = []
        dead = []
        paid = {}
        with site.journal.leased_transaction(site.lease) as connection:
            now = site.journal.database.clock(connection)
            rows = (
                connection.execute(query.where(tasks.c.changed <= now - self._settle))
                .mappings()
                .all()
            )
            answers = self._desk.answers(connection, [row["example_id"] for row in rows])
            held = site.ledger.read_held(connection, [_key(row["example_id"]) for row in rows])
            for row in rows:
                id_ = row["example_id"]
                outcome = self._desk.resolve(connection, row)
                if outcome.state not in ready:  # an earlier version gave it up at the first skip
                    self._desk.settle(connection, id_, now)
                    continue
                given = [answer for answer in answers[id_] if answer["state"] == "submitted"]
                # The price at which it was put up: a higher one of today could exceed what is held.
                price = held.get(_key(id_), 0) // row["wanted"]
                cost = price * sum(answer["note"] != IMPORTED for answer in given)
                paid[_key(id_)] = cost
                if outcome.state == "dropped":
                    dead.append(DeadLetter(id_, "annotation", outcome.reason))
                    continue
                provenance: dict[str, Any] = {"answers": [_describe(answer) for answer in given]}
                provenance |= {"agreement": outcome.agreement, "decision": row["decision"]}
                label = Annotation(
                    id_, outcome.text, f"human/{outcome.annotator}", cost / NANO, provenance
                )
                labels.append(join_first(label, row["first"]) if row["first"] else label)
            site.journal.enter_annotations(connection, self._desk.run, site.round, labels)
            site.journal.enter_dead_letters(connection, self._desk.run, site.round, dead)
            site.ledger.settle(connection, paid)
            self._close(connection, "taken", [label.id for label in labels])
            self._close(connection, "buried", [letter.id for letter in dead])
        return labels, dead

    def _close(self, connection: sa.Connection, state: str, ids: Sequence[str]) -> None:
        here = self._desk.mine & (tasks.c.example_id == sa.bindparam("closed"))
        if ids:
            update = sa.update(tasks).where(here).values(state=state)
            connection.execute(update, [{"closed": id_} for id_ in ids])


def join_first(label: Annotation, first: Mapping[str, Any]) -> Annotation:
    """A second annotator's label with what the first one said and cost."""
    dollars = label.dollars + float(first.get("dollars", 0.0))
    return Annotation(
        label.id, label.text, label.annotator, dollars, label.provenance | {"first": dict(first)}
    )


def _describe(answer: sa.RowMapping) -> dict[str, Any]:
    return {name: answer[name] for name in ("annotator", "text", "seconds", "answered")}


def _key(example_id: str) -> str:
    return f"human-{example_id}"
